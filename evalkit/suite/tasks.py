"""lm-eval tasks: which a suite runs, on which data, and what their metrics are called."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from evalkit.records import Budget
from evalkit.suite.fields import (
    Count,
    Flag,
    Found,
    Length,
    Name,
    Seed,
    Spec,
    Text,
    Where,
    Whole,
    names_of,
    refuse,
    shown,
    wrong,
)
from evalkit.suite.located import text_of
from evalkit.suite.problems import keys_at, read_model

DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
"""Of files that hold a task's samples."""
HIT_METRICS = ("acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match")
"""lm-eval's metrics that count right answers."""
LOSS_METRICS = ("perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte")
"""lm-eval's metrics that come from the log-likelihood of texts: better when lower."""

_RESERVED = ("perplexity", "divergence", "samples", "footprint", "survival", "baseline")
_METRIC = re.compile(r"[^\s/@]+(/[^\s/@]+)?(@[^\s/@]+)?")


def _data_files(value: object) -> object:
    """Return one file, or a mapping of splits to files, as the mapping; one file is split ''."""
    if value is None:
        return None
    files = value if isinstance(value, Mapping) else {"": value}
    found: list[Found] = []
    for split, file in files.items():
        name = text_of(file)
        where: Where = (str(split),) if split else ()
        if not isinstance(name, str) or not name.strip():
            found.append((where, f"must be a file, not {shown(name)}"))
        elif not name.lower().endswith(DATA_SUFFIXES):
            allowed = ", ".join(DATA_SUFFIXES)
            file_name = shown(name.replace("\\", "/").rpartition("/")[2])
            found.append((where, f"{file_name!r} is no file of samples (allowed: {allowed})"))
    if not files:
        found.append(((), "must not be empty"))
    if found:
        refuse(found)
    return {str(split): text_of(file) for split, file in files.items()}


class TaskSpec(Spec):
    """One lm-eval task or group. A string is its `task`."""

    task: Text
    """The name of a task or a group: one of lm-eval's own, or one defined in `include_path`."""
    name: Name = ""
    """The first part of its metrics, as in `NAME/acc`; the task's own name where it is left out."""
    include_path: Text | None = None
    """A folder of task definitions (YAML). Without it the task is one of lm-eval's own."""
    data: Annotated[dict[str, str] | None, BeforeValidator(_data_files)] = None
    """The file (`.jsonl`, `.json`, `.csv`, `.parquet`) that a definition of `include_path` reads
    its samples from, instead of what the definition says; or a mapping of splits to files."""
    num_fewshot: Whole | None = None
    """Solved examples before each sample; what the definition says where it is left out."""
    limit: Count | None = None
    """Only the first so many samples of the task, or of every task of a group."""
    seed: Seed | None = None
    """Of the choice of examples and of sampled generation; lm-eval's own seeds where it is left
    out."""
    chat_template: Flag = False
    """Put every prompt into the tokenizer's chat template."""
    system: Text | None = None
    """A system prompt."""
    cluster: Text | None = None
    """The column that says which samples belong together and so are not independent."""
    batch_size: Count = 16
    """Requests in one forward pass; in float32 this does not move the result."""
    max_length: Length | None = None
    """Tokens that a prompt may have, what is more being cut off on the left; as many as the model
    has positions where it is left out."""
    place: str = Field(default="", exclude=True)
    """Where it was written, as `file:line`."""

    @model_validator(mode="before")
    @classmethod
    def _default_name(cls, value: object) -> object:
        if not isinstance(value, dict) or value.get("name") or not value.get("task"):
            return value
        return {**value, "name": text_of(value["task"])}

    @model_validator(mode="after")
    def _consistent(self) -> TaskSpec:
        found: list[Found] = []
        if self.data is not None and self.include_path is None:
            found.append((("data",), "goes with 'include_path': lm-eval's own tasks have data"))
        if self.name in _RESERVED:
            found.append((("name",), f"'{self.name}' is a metric of evalkit: choose another name"))
        if found:
            refuse(found)
        return self

    def data_json(self) -> str | dict[str, str] | None:
        """Return `data` as a suite would write it."""
        return self.data[""] if self.data is not None and list(self.data) == [""] else self.data


# ----------------------------------------------------------------------------- reading


def task_entries(value: object) -> list[tuple[str, object, Where]]:
    """Return (name, settings, where) of every task, from a list or a mapping of names.

    What is neither text nor a mapping is handed on as it is, with an empty name.
    """
    if isinstance(value, Mapping):
        return [(str(name), _named(str(name), v), (str(name),)) for name, v in value.items()]
    entries: list[tuple[str, object, Where]] = []
    for index, item in enumerate(value if isinstance(value, list | tuple) else ()):
        settings = {"task": text_of(item)} if isinstance(text_of(item), str) else item
        name = ""
        if isinstance(settings, Mapping):
            name = str(text_of(settings.get("name") or settings.get("task") or ""))
        entries.append((name, settings, (index,)))
    return entries


def _named(name: str, below: object) -> object:
    """Return the settings under a name, which is also the task where they do not say."""
    below = text_of(below)
    if isinstance(below, str):
        return {"task": below, "name": name}
    if isinstance(below, Mapping):
        return {"task": name, **below, **({} if "name" in below else {"name": name})}
    return below


def read_tasks(value: object, info: ValidationInfo) -> tuple[TaskSpec, ...]:
    """Return the tasks of a suite's list, or of its mapping of names.

    Raises:
        PydanticCustomError: everything wrong with any of them.
    """
    if isinstance(value, tuple) and all(isinstance(item, TaskSpec) for item in value):
        return value
    if not isinstance(value, list | Mapping):
        raise wrong(f"must be a list of tasks, or a mapping of names, not {shown(value)}")
    found: list[Found] = []
    specs: list[TaskSpec] = []
    for name, settings, where in task_entries(value):
        found.extend((where, what) for what in _wrong_form(value, settings, name))
        if name and name in (spec.name for spec in specs):
            found.append((where, f"there is a task named '{shown(name)}' already: give it a name"))
        spec = read_model(TaskSpec, settings, names=names_of(info), at=where, found=found)
        specs.extend([spec] if spec is not None else [])
    if found:
        refuse(found)
    return tuple(specs)


def _wrong_form(value: object, settings: object, name: str) -> list[str]:
    if not isinstance(settings, Mapping):
        return []
    problems = []
    if "place" in settings:
        problems.append(f"unknown key 'place' (allowed: {', '.join(keys_at(TaskSpec, ()))})")
    if isinstance(value, Mapping) and text_of(settings.get("name")) != name:
        problems.append("goes without 'name': its key is its name")
    return problems


def tasks_json(specs: Sequence[TaskSpec]) -> list[dict[str, Any]]:
    """Return tasks as a suite would write them."""
    return [
        {
            key: spec.data_json() if key == "data" else value
            for key, value in spec.model_dump(mode="json", exclude_none=True).items()
        }
        for spec in specs
    ]


# ----------------------------------------------------------------------------- metrics


def is_task_metric(name: str, tasks: Sequence[str]) -> bool:
    """Whether a name can be that of a metric of one of the tasks.

    It is `TASK/METRIC`; `GROUP/SUBTASK/METRIC` for one task of a group; with `@FILTER` behind it
    for other filters than the first. Which metrics a task has, its definition says.
    """
    task, _, rest = name.partition("/")
    return task in tasks and _METRIC.fullmatch(rest) is not None


def base_metric(name: str) -> str:
    """Return lm-eval's own name of a task's metric: 'acc' of 'mmlu/mmlu_law/acc@strict'."""
    return name.rpartition("/")[2].partition("@")[0]


def found_in_task_budget(
    metric: str, increase: Budget | None, decrease: Budget | None
) -> list[Found]:
    """Return what is wrong with the budget of a gate on a task's metric."""
    base, found = base_metric(metric), list[Found]()
    if base in HIT_METRICS and increase is not None:
        found.append((("max_increase",), f"{base} is better when higher: use max_decrease"))
    if base in LOSS_METRICS and decrease is not None:
        found.append((("max_decrease",), f"{base} is better when lower: use max_increase"))
    for key, budget in (("max_increase", increase), ("max_decrease", decrease)):
        if budget is None:
            continue
        if budget.unit == "points" and base in LOSS_METRICS:
            found.append(((key,), f"{base} has no percentage points: write a number"))
        if budget.unit == "relative" and base not in LOSS_METRICS[:3]:
            what = "is ambiguous here: write 2pp for percentage points, or a number"
            found.append(((key,), f"{budget} {what}".replace(" %", "%", 1)))
    return found
