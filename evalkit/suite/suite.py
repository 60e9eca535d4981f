"""The suite as one validated object, read from YAML or from the JSON that a run kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PlainSerializer, PlainValidator, model_validator

from evalkit.errors import Problem, SuiteError
from evalkit.paths import DTYPES
from evalkit.records import DIVERGENCE, Gate, JsonObject
from evalkit.suite.fields import Found, Key, Name, Names, Prose, Spec, refuse
from evalkit.suite.gates import gates_json, read_gates
from evalkit.suite.layers import SuiteTree, read_suite_tree
from evalkit.suite.metrics import Metrics
from evalkit.suite.perplexity import perplexity_entries
from evalkit.suite.problems import keys_at, read_model
from evalkit.suite.specs import AdapterSpec, DataSpec, ModelSpec, Requires, training_method
from evalkit.suite.tasks import TaskSpec, read_tasks, task_entries, tasks_json
from evalkit.suite.variants import VariantSpec, read_variants, variant_entry, variants_json


class Suite(Spec):
    """Everything a run does, validated: which weights, by which paths, scored and judged how."""

    more_keys = ("extends",)

    name: Name
    """Names the suite's reports."""
    description: Prose = ""
    """For people."""
    model: ModelSpec
    """The base weights: a string, or a mapping."""
    requires: Requires | None = None
    """What the machine must have."""
    data: dict[Key, DataSpec] = Field(default_factory=dict)
    """The corpora by name; each a string or a mapping."""
    adapters: dict[Key, AdapterSpec] = Field(default_factory=dict)
    """The adapters by name."""
    variants: Annotated[
        tuple[VariantSpec, ...], PlainValidator(read_variants), PlainSerializer(variants_json)
    ]
    """What is scored, in this order: presets by their name, or `NAME: [steps]`."""
    metrics: Metrics = Field(default_factory=Metrics)
    """What is measured on every variant."""
    tasks: Annotated[
        tuple[TaskSpec, ...], PlainValidator(read_tasks), PlainSerializer(tasks_json)
    ] = ()
    """lm-eval tasks to run on every variant: names, `{task: NAME, ...}`, or a mapping of names."""
    gates: Annotated[tuple[Gate, ...], PlainValidator(read_gates), PlainSerializer(gates_json)] = ()
    """What is promised."""
    text: str = Field(default="", exclude=True)
    """The YAML that was read, lowest layer first, each layer under a comment that names it."""
    place: str = Field(default="", exclude=True)
    """The file, as it was given."""

    @model_validator(mode="after")
    def _measures(self) -> Suite:
        metrics = self.metrics
        if not (metrics.perplexity or metrics.samples or metrics.divergence or self.tasks):
            what = "nothing is measured: give perplexity, divergence or samples; or 'tasks'"
            refuse([(("metrics",), what)])
        return self

    @property
    def ranks(self) -> dict[str, int]:
        """Of the LoRA adapters that are trained here, by name."""
        return {name: spec.lora.r for name, spec in self.adapters.items() if spec.lora}

    def to_json(self) -> JsonObject:
        """Return the suite as JSON: after `extends` and `--set`, with presets written out.

        `suite_from_json` reads it back; `text` and the gates' places are not in it.
        """
        written = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        if not self.metrics.perplexity:
            del written["metrics"]["perplexity"]
        return written


def load_suite(path: Path | str, *, overrides: Sequence[str] = ()) -> Suite:
    """Read a suite from its YAML file.

    Args:
        path: the file; what it `extends` is read too.
        overrides: `dotted.key=VALUE` each, VALUE in YAML, laid over the file in this order.

    Raises:
        SuiteError: everything that is wrong with it, in the order of its lines.
        UsageError: there is no such file, or an override is malformed.
    """
    tree = read_suite_tree(Path(path), overrides=overrides)
    suite = _validate(tree.root.plain(), tree=tree, place=str(path))
    gates = (
        dataclasses.replace(gate, place=tree.locate(("gates", index)).place)
        for index, gate in enumerate(suite.gates)
    )
    entries = task_entries(tree.root.plain().get("tasks"))
    tasks = (
        spec.model_copy(update={"place": tree.locate(("tasks", *where)).place})
        for spec, (_, _, where) in zip(suite.tasks, entries, strict=True)
    )
    update = {"gates": tuple(gates), "tasks": tuple(tasks)}
    return suite.model_copy(update={**update, "text": tree.text, "place": str(path)})


def suite_from_json(obj: Mapping[str, Any], *, place: str) -> Suite:
    """Read back what `Suite.to_json` wrote.

    Args:
        obj: the JSON.
        place: the file that the suite was read from, for messages.

    Raises:
        SuiteError: it is no suite (of this version).
    """
    return _validate(dict(obj), tree=None, place=place).model_copy(update={"place": place})


def _validate(raw: Mapping[str, Any], *, tree: SuiteTree | None, place: str) -> Suite:
    found: list[Found] = [
        ((key,), f"unknown key (allowed: {', '.join(keys_at(Suite, ()))})")
        for key in ("text", "place")
        if key in raw
    ]
    suite = read_model(Suite, raw, names=_names(raw), at=(), found=found)
    if suite is None or found:
        raise SuiteError(_placed(found, tree=tree, place=place))
    return suite


def _placed(found: Sequence[Found], *, tree: SuiteTree | None, place: str) -> list[Problem]:
    """Return problems with their file and line, in the order of the files and their lines."""
    problems: dict[Problem, tuple[int, int]] = {}
    for where, what in found:
        node = tree.locate(where) if tree is not None else None
        problem = Problem(node.place if node else place, ".".join(map(str, where)), what)
        problems[problem] = node.order if node else (0, 0)
    return sorted(problems, key=lambda problem: problems[problem])


def _names(raw: Mapping[str, Any]) -> Names:
    """Gather the names that parts refer to, from a suite that may be wrong anywhere."""
    model, data, adapters = raw.get("model"), raw.get("data"), raw.get("adapters")
    dtype = model.get("dtype") if isinstance(model, Mapping) else None
    metrics = raw.get("metrics")
    measured = metrics if isinstance(metrics, Mapping) else {}
    perplexity, divergence = measured.get("perplexity"), measured.get(DIVERGENCE)
    named = list(perplexity_entries(perplexity)) if perplexity is not None else []
    return Names(
        dtype=dtype if dtype in DTYPES else "fp16",
        adapters={name: training_method(adapter) for name, adapter in _items(adapters)},
        data={name: spec if isinstance(spec, Mapping) else {} for name, spec in _items(data)},
        variants=_variant_names(raw.get("variants")),
        metrics=[*named, *([DIVERGENCE] if divergence is not None else [])],
        tasks=[name for name, _, _ in task_entries(raw.get("tasks")) if name],
    )


def _variant_names(variants: object) -> list[str] | None:
    if not isinstance(variants, list) or not variants:
        return None
    entries = map(variant_entry, variants)
    return list(dict.fromkeys(entry[0] for entry in entries if entry is not None))


def _items(value: object) -> list[tuple[str, Any]]:
    return [(str(key), below) for key, below in value.items()] if isinstance(value, Mapping) else []
