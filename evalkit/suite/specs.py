"""The suite's base model, machine, data and adapters: each key, its meaning and its default."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, model_validator

from evalkit.paths import AdapterMethod, Dtype, Quantize
from evalkit.suite.fields import (
    Count,
    DataReference,
    Flag,
    Found,
    Spec,
    Text,
    Whole,
    names_of,
    refuse,
    shown,
    wrong,
)
from evalkit.suite.located import text_of
from evalkit.suite.lora import LoraSpec
from evalkit.suite.training import TrainingSpec
from evalkit.suite.variants import TrainingPath


class ModelSpec(Spec):
    """The base weights. A string is its `source`."""

    source: Text
    """A hub id; a local folder (starting with `.`, `/` or `~`); or `package:PACKAGE/FILE.gguf`,
    a GGUF file inside an installed Python package."""
    revision: Text | None = None
    """Branch, tag or commit on the hub."""
    dtype: Dtype = "fp16"
    """What a path without `load` reads the weights in; `auto` is the checkpoint's own."""
    device_map: Literal["auto", "balanced", "balanced_low_0", "sequential"] | None = None
    """How Transformers spreads one model over several GPUs; without it the model is on one
    device."""
    gpus: Count | None = None
    """Over how many GPUs `device_map` spreads the model. An executor gives a job so many; alone on
    a machine, `CUDA_VISIBLE_DEVICES` must show so many. Without it, all that there are."""
    trust_remote_code: Flag = False
    """Run code that comes with the weights. Needs `--trust-remote-code` on the command line
    too."""

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: object) -> object:
        value = text_of(value)
        return {"source": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> ModelSpec:
        if self.gpus is not None and self.device_map is None:
            refuse([(("gpus",), "spreads the model: say also how, as in 'device_map: auto'")])
        return self


_UNITS = {"": 1, "b": 1} | {
    f"{letter}{infix}b": base ** (power + 1)
    for power, letter in enumerate("kmgt")
    for infix, base in (("", 1000), ("i", 1024))
}


def _bytes(value: object) -> object:
    """Return "24GB" or "24GiB" as bytes."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*([0-9]{1,9}(?:\.[0-9]{1,6})?)\s*([A-Za-z]*)\s*", value)
    if match is None or match[2].lower() not in _UNITS:
        raise wrong(f"{shown(value)!r} is no amount of memory (write it as in 24GB or 24GiB)")
    return int(float(match[1]) * _UNITS[match[2].lower()])


class Requires(Spec):
    """What the machine must have: checked before any network or loading."""

    device: Literal["cpu", "cuda"] | None = None
    """The device that the suite needs."""
    memory: Annotated[Count | None, BeforeValidator(_bytes)] = None
    """Memory of that device, as in `24GB` or `24GiB`."""
    instead: Text | None = None
    """The smaller suite, to be named on a machine that cannot run this one."""


def _some(limit: int | None, info: ValidationInfo) -> int | None:
    # Corpora refuse a limit of 0 too; from a suite, it is said with the line.
    if limit == 0 and names_of(info) is not None:
        raise wrong("must be at least 1, not 0")
    return limit


class DataSpec(Spec):
    """A corpus. A string is its `dataset`."""

    dataset: Text
    """A file (`.jsonl`, `.json`, `.csv`, `.parquet`, `.txt`), `builtin:python-reference`, or
    the id of a data set on the hub."""
    config: Text | None = None
    """The configuration of a hub data set."""
    revision: Text | None = None
    """Branch, tag or commit on the hub."""
    split: Text | None = None
    """The split of a hub data set; `train` or `test` of the built-in one."""
    text: Text = "text"
    """The column with the text."""
    prompt: Text | None = None
    """The column with prompts: with `completion`, and instead of `text`."""
    completion: Text | None = None
    """The column with what follows the prompt."""
    messages: Text | None = None
    """The column with chats, instead of `text`; the tokenizer's chat template renders them."""
    cluster: Text | None = None
    """The column that says which documents belong together and so are not independent."""
    limit: Annotated[Whole | None, AfterValidator(_some)] = None
    """Only the first so many documents, from 1."""
    max_tokens_per_document: Count | None = None
    """Score only the first so many tokens of every document: for `protocol: documents`."""

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: object) -> object:
        value = text_of(value)
        return {"dataset": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> DataSpec:
        found: list[Found] = []
        if (self.prompt is None) != (self.completion is None):
            found.append(((), "prompt and completion go together: name both columns"))
        if self.messages is not None and (self.prompt or self.completion):
            found.append((("messages",), "goes without prompt and completion"))
        if found:
            refuse(found)
        return self


class AdapterSpec(Spec):
    """An adapter: trained here (`on`, `data`, `lora`, `training`), or taken `from` somewhere."""

    on_path: TrainingPath = Field(default=None, alias="on")
    """The weights it is trained on: a preset's name or a list of steps, with nothing attached."""
    data: DataReference | None = None
    """The name of the data that it learns."""
    lora: LoraSpec | None = None
    """Its shape; the defaults where it is left out."""
    training: TrainingSpec | None = None
    """How it is trained."""
    from_: Text | None = Field(default=None, alias="from")
    """A PEFT adapter that is there already: a local folder (starting with `.`, `/` or `~`) or a
    hub id. Goes alone, or with `revision`."""
    revision: Text | None = None
    """Branch, tag or commit on the hub."""

    @property
    def method(self) -> AdapterMethod:
        """What it is, as far as a path must know: see `evalkit.paths.steps.AdapterMethod`."""
        if self.from_ is not None:
            return "ready"
        if self.training is not None and self.training.method == "full":
            return "full"
        return _lora_kind(self.lora.flavour, self.lora.init) if self.lora else "lora"

    @model_validator(mode="before")
    @classmethod
    def _default_lora(cls, value: object) -> object:
        if not isinstance(value, dict) or value.keys() & {"from", "from_", "lora"}:
            return value
        return value if training_method(value) == "full" else {**value, "lora": {}}

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> AdapterSpec:
        found = self._found_in_from() if self.from_ is not None else self._found_in_training()
        names = names_of(info)
        if names is not None and self.data is not None:
            found += self._found_in_data(names.data[self.data])
        if found:
            refuse(found)
        return self

    def _found_in_from(self) -> list[Found]:
        given = {
            "on": self.on_path,
            "data": self.data,
            "lora": self.lora,
            "training": self.training,
        }
        what = "goes without 'from': that adapter is trained already"
        return [((key,), what) for key, value in given.items() if value is not None]

    def _found_in_training(self) -> list[Found]:
        given = {"on": self.on_path, "data": self.data, "training": self.training}
        if all(value is None for value in given.values()):
            return [((), "give either 'from', or 'on', 'data' and 'training'")]
        found: list[Found] = [((k,), "missing") for k, value in given.items() if value is None]
        if self.revision is not None:
            found.append((("revision",), "goes with 'from'"))
        if self.method == "full" and self.lora is not None:
            found.append((("lora",), "goes without 'method: full', which trains every weight"))
        if self.method == "full" and self.on_path is not None and len(self.on_path) > 1:
            found.append((("on",), "'method: full' needs 16- or 32-bit weights, as in 'on: fp16'"))
        last = self.on_path[-1] if self.on_path else None
        if self.method == "qa-lora" and not (isinstance(last, Quantize) and last.type == "group4"):
            found.append((("on",), "'flavour: qa-lora' needs group4 weights, as in 'on: group4'"))
        if self.method == "loftq" and not isinstance(last, Quantize):
            found.append((("on",), "'init: loftq' needs quantised weights, as in 'on: nf4'"))
        return found

    def _found_in_data(self, data: Any) -> list[Found]:
        if self.training is None or not self.training.completion_only:
            return []
        if data.get("completion") or data.get("messages"):
            return []
        what = f"data '{self.data}' has neither prompt and completion nor messages"
        return [(("training", "completion_only"), what)]


def training_method(adapter: object) -> AdapterMethod:
    """Return what an adapter is, as a suite writes it: "lora" where it does not say."""
    if isinstance(adapter, AdapterSpec):
        return adapter.method
    if not isinstance(adapter, dict):
        return "lora"
    if adapter.get("from") or adapter.get("from_"):
        return "ready"
    training, lora = adapter.get("training"), adapter.get("lora")
    if isinstance(training, TrainingSpec):
        training = {"method": training.method}
    if isinstance(training, dict) and training.get("method") == "full":
        return "full"
    if isinstance(lora, LoraSpec):
        return _lora_kind(lora.flavour, lora.init)
    return _lora_kind(lora.get("flavour"), lora.get("init")) if isinstance(lora, dict) else "lora"


def _lora_kind(flavour: object, init: object) -> AdapterMethod:
    if flavour == "qa-lora":
        return "qa-lora"
    if init == "pissa" or init == "loftq":
        return init
    return "lora"
