"""What a suite says of perplexity: settings of one corpus, or of several by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ValidationInfo, model_validator

from evalkit.suite.fields import (
    Count,
    DataReference,
    Found,
    Key,
    Length,
    Spec,
    Whole,
    names_of,
    refuse,
    shown,
    wrong,
)
from evalkit.suite.problems import read_model

PERPLEXITY = "perplexity"


class PerplexitySpec(Spec):
    """Perplexity of one corpus."""

    on: DataReference
    """The name of the data."""
    protocol: Literal["documents", "stream", "chunks"] = "documents"
    """`documents` scores each on its own, as lm-eval does; `stream` slides a window over all of
    them, as the Transformers documentation does; `chunks` scores as `llama-perplexity` does."""
    max_length: Length = 1024
    """Tokens in a window; `n_ctx` of `chunks`."""
    stride: Count | None = None
    """How far the window of `stream` moves; half of `max_length` where it is left out."""
    tokens: Count | None = None
    """Score at most so many tokens, shared out between the documents."""
    score_on: Literal["all", "completion"] = "all"
    """`completion` takes prompts as context only: for `protocol: documents`."""
    token_losses: Whole = 64
    """Keep the first 400 tokens of so many documents for the report, each with its loss and the
    token that the model found likeliest."""
    batch_tokens: Count = 4096
    """Tokens in one forward pass; in float32 this does not move the result."""

    @model_validator(mode="before")
    @classmethod
    def _default_stride(cls, value: object) -> object:
        if not isinstance(value, dict) or value.get("protocol") != "stream":
            return value
        length = value.get("max_length", 1024)
        if value.get("stride") is None and isinstance(length, int) and length >= 2:
            return {**value, "stride": int(length) // 2}
        return value

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> PerplexitySpec:
        found: list[Found] = []
        if self.stride is not None and self.protocol != "stream":
            found.append((("stride",), "goes with 'protocol: stream'"))
        elif self.stride is not None and self.stride > self.max_length:
            what = f"must be at most max_length, {self.max_length}: else tokens are left out"
            found.append((("stride",), what))
        found += found_in_windows(self.protocol, self.max_length, self.score_on)
        names = names_of(info)
        if names is not None:
            found += found_in_data(self.on, self.protocol, self.score_on, names.data[self.on])
        if found:
            refuse(found)
        return self


def found_in_windows(protocol: str, max_length: int, score_on: str) -> list[Found]:
    """Return what does not go together in how a corpus is cut into windows."""
    found: list[Found] = []
    if protocol == "chunks" and (max_length < 4 or max_length % 2):
        found.append((("max_length",), "must be an even number from 4 for 'protocol: chunks'"))
    if score_on == "completion" and protocol != "documents":
        found.append((("score_on",), "completion goes with 'protocol: documents'"))
    return found


def found_in_data(on: str, protocol: str, score_on: str, data: Mapping[str, Any]) -> list[Found]:
    """Return what is wrong with scoring a data set, by the data set's settings as written."""
    found: list[Found] = []
    for key in ("cluster", "max_tokens_per_document"):
        if protocol != "documents" and data.get(key) is not None:
            what = f"{protocol} joins all documents, and {key} of data '{on}' goes"
            found.append((("protocol",), f"{what} with documents only"))
    if score_on == "completion" and not (data.get("completion") or data.get("messages")):
        what = f"data '{on}' has neither prompt and completion nor messages"
        found.append((("score_on",), what))
    return found


def perplexity_entries(value: object) -> dict[str, tuple[object, tuple[str, ...]]]:
    """Return metric name → (settings, where they are), from one corpus's settings or several's.

    They are several where every value is a mapping: of the settings of one, none is.
    """
    if isinstance(value, Mapping) and value and all(isinstance(v, Mapping) for v in value.values()):
        return {f"{PERPLEXITY}/{name}": (below, (str(name),)) for name, below in value.items()}
    return {PERPLEXITY: (value, ())}


class _Named(Spec):
    name: Key


def read_perplexity(value: object, info: ValidationInfo) -> dict[str, PerplexitySpec]:
    """Return the settings of every corpus by the name of its metric.

    Raises:
        PydanticCustomError: everything wrong with any of them.
    """
    if not isinstance(value, Mapping):
        raise wrong(f"must be a mapping of keys, not {shown(value)}")
    if value and all(isinstance(spec, PerplexitySpec) for spec in value.values()):
        return dict(value)
    names, found = names_of(info), list[Found]()
    specs: dict[str, PerplexitySpec] = {}
    for metric, (settings, where) in perplexity_entries(value).items():
        if where:
            wrong_name: list[Found] = []
            read_model(_Named, {"name": where[0]}, names=None, at=where, found=wrong_name)
            found.extend((where, what) for _, what in wrong_name)
        spec = read_model(PerplexitySpec, settings, names=names, at=where, found=found)
        specs.update({metric: spec} if spec is not None else {})
    if found:
        refuse(found)
    return specs


def perplexity_json(specs: Mapping[str, PerplexitySpec]) -> dict[str, Any]:
    """Return the settings as a suite would write them."""
    fields = {m: spec.model_dump(mode="json", exclude_none=True) for m, spec in specs.items()}
    if list(fields) == [PERPLEXITY]:
        return fields[PERPLEXITY]
    return {metric.removeprefix(f"{PERPLEXITY}/"): below for metric, below in fields.items()}
