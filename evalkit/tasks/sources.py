"""Resolves a suite's lm-eval tasks: definitions and data, checked and digested before a job runs.

Nothing here imports lm-eval, datasets or torch: a rerun that computes nothing does without them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evalkit.digests import digest_file, digest_json
from evalkit.errors import DataError, Problem, SuiteError, UsageError
from evalkit.machine import package_versions
from evalkit.paths import did_you_mean
from evalkit.records import JsonObject
from evalkit.suite import Suite, TaskSpec
from evalkit.tasks.data import LOCAL_FORMATS, check_columns, data_files, hub_commit, sample_columns
from evalkit.tasks.definitions import (
    METRICS,
    Definition,
    Index,
    Kind,
    builtin_index,
    local_index,
)
from evalkit.tasks.metrics import check_gates

PACKAGE = "lm_eval"
_MOST_NAMES = 12


@dataclass(frozen=True)
class TaskSource:
    """What lm-eval needs to load a task, and what its numbers depend on."""

    kind: Kind
    folders: tuple[Path, ...]
    """With the definitions that it needs."""
    working_folder: Path | None
    """What relative files in the definitions are relative to; None for lm-eval's own."""
    overrides: JsonObject
    """Laid over the definitions: where the samples are."""
    digest: str
    """Of the definitions and the data."""
    origin: str
    """For people: the definition's file, and the data."""
    code: tuple[str, ...] = ()
    """What would run code that is not lm-eval's: 'tasks/a.yaml:7: !function utils.f'."""
    definitions: Sequence[Definition] = field(default=(), repr=False, compare=False)


def resolve_tasks(suite: Suite, cache: Path) -> dict[str, TaskSource]:
    """Finds, checks and digests the definitions and the data of a suite's tasks.

    Args:
        suite: with tasks or without.
        cache: the cache folder.

    Returns:
        By the tasks' names.

    Raises:
        SuiteError: tasks or metrics that the definitions do not have.
        DataError: definitions or data that cannot be used.
        NetworkError: a hub's data is not here, and the hub cannot be asked.
    """
    problems: list[Problem] = []
    sources: dict[str, TaskSource] = {}
    for spec in suite.tasks:
        index = _index(spec, cache)
        if spec.task not in index.names:
            problems.append(_unknown(spec, index))
            continue
        definitions = list(index.closure(spec.task))
        sources[spec.name] = _source(spec, index, definitions, cache)
    problems += check_gates(suite, {name: s.definitions for name, s in sources.items()})
    if problems:
        raise SuiteError(problems)
    return sources


def check_trusted(sources: Mapping[str, TaskSource], *, trusted: bool) -> None:
    """Refuses definitions that run code of their own, unless the command line allows it.

    Raises:
        UsageError: with what would run.
    """
    if trusted:
        return
    for name, source in sources.items():
        if source.code:
            rest = f" (and {len(source.code) - 1} more)" if source.code[1:] else ""
            raise UsageError(
                f"tasks.{name}: {source.code[0]}{rest}: this definition wants to run code that is "
                "not lm-eval's. Only the command line may allow that: add --trust-remote-code"
            )


def _index(spec: TaskSpec, cache: Path) -> Index:
    if spec.include_path is None:
        return builtin_index(package_versions((PACKAGE,))[PACKAGE], cache)
    return local_index(Path(spec.include_path))


def _unknown(spec: TaskSpec, index: Index) -> Problem:
    names = sorted(index.names)
    listed = ", ".join(names[:_MOST_NAMES]) or "none"
    if len(names) > _MOST_NAMES:
        listed = f"{len(names):,} names; `lm-eval ls tasks` lists them"
        if spec.include_path is not None:
            listed = f"{', '.join(names[:_MOST_NAMES])}, ..."
    where = f"in {index.folder}" if spec.include_path is not None else "of lm-eval"
    what = f"unknown task '{spec.task}'{did_you_mean(spec.task, names)}"
    return Problem(spec.place, f"tasks.{spec.name}.task", f"{what} (allowed {where}: {listed})")


def _source(spec: TaskSpec, index: Index, definitions: list[Definition], cache: Path) -> TaskSource:
    leaves = [definition for definition in definitions if definition.kind == "task"]
    if not leaves:
        raise DataError(f"{_place(spec)}: {spec.task} holds no tasks")
    local = spec.include_path is not None
    kind = index.kind(spec.task)
    overrides = _overrides(spec, kind, leaves)
    data, splits = _local_data(spec, leaves, overrides, cache)
    hub = sorted({str(leaf.config["dataset_path"]) for leaf in leaves if _is_hub(leaf, overrides)})
    commits = {dataset: hub_commit(dataset, place=_place(spec)) for dataset in hub}
    files = {file for definition in definitions for file in definition.files}
    # A function of a group is imported as one of a task is.
    code = _code(definitions) if local else tuple(dict.fromkeys(_unsafe(leaves)))
    if local and code:
        files |= set(index.folder.glob("**/*.py"))
    digests = {file.as_posix(): digest_file(file, cache) for file in files} if local else {}
    return TaskSource(
        kind=kind,
        folders=(index.folder,) if local else _folders(definitions),
        working_folder=index.folder if local else None,
        overrides=overrides,
        digest=digest_json([sorted(digests.values()), sorted(splits), commits]),
        origin=", ".join([str(definitions[0].file) if local else "lm-eval", *data, *hub]),
        code=code,
        definitions=definitions,
    )


def _folders(definitions: Sequence[Definition]) -> tuple[Path, ...]:
    """The folders of lm-eval's own definitions that are needed, none inside another."""
    folders = sorted({definition.file.parent for definition in definitions})
    return tuple(f for f in folders if not any(f != o and f.is_relative_to(o) for o in folders))


def _overrides(spec: TaskSpec, kind: Kind, leaves: Sequence[Definition]) -> JsonObject:
    """What `data:` changes in the definitions."""
    if spec.data is None:
        return {}
    if kind == "tag":
        raise DataError(f"{_place(spec)}.data: {spec.task} is a tag of several tasks: name one")
    files: dict[str, str] = {}
    for leaf in leaves:
        own = dict(leaf.config.get("dataset_kwargs") or {}).get("data_files")
        if isinstance(own, Mapping):
            folder = Path(str(spec.include_path))
            files |= {str(split): str(folder / str(file)) for split, file in own.items()}
        if "" in spec.data and leaf.scored_split is None:
            what = "has neither test_split nor validation_split, so nothing of it is scored"
            raise DataError(f"{leaf.file}: {what}")
        files |= {split or str(leaf.scored_split): file for split, file in spec.data.items()}
    suffixes = {Path(file).suffix.lower() for file in files.values()}
    formats = {LOCAL_FORMATS.get(suffix, "") for suffix in suffixes}
    if len(formats) != 1:
        raise DataError(f"{_place(spec)}.data: files of one format, not {', '.join(suffixes)}")
    return {
        "dataset_path": formats.pop(),
        "dataset_name": None,
        "dataset_kwargs": {"data_files": files},
    }


def _local_data(
    spec: TaskSpec, leaves: Sequence[Definition], overrides: JsonObject, cache: Path
) -> tuple[list[str], set[tuple[str, str, str]]]:
    """The local files that hold samples, whose columns are checked.

    Returns:
        Their paths; and of each task and split the digest of its file: which split is scored, and
        which gives the solved examples, moves the numbers.
    """
    digests: dict[str, str] = {}
    splits: set[tuple[str, str, str]] = set()
    columns: dict[Path, list[str]] = {}
    for leaf in leaves:
        config = {**leaf.config, **overrides}
        folder = Path(spec.include_path or ".")
        for split, file in data_files(config, folder, leaf.file, name=spec.name):
            if file not in columns:
                columns[file] = sample_columns(file)
                digests[str(file)] = digest_file(file, cache)
            if split in (None, leaf.scored_split):
                check_columns(leaf, file, columns[file], cluster=spec.cluster, place=_place(spec))
            splits.add((leaf.name, split or "", digests[str(file)]))
    return list(digests), splits


def _is_hub(leaf: Definition, overrides: JsonObject) -> bool:
    path = overrides.get("dataset_path") or leaf.config.get("dataset_path")
    return isinstance(path, str) and path not in LOCAL_FORMATS.values() and "/" in path.strip("./")


def _code(definitions: Sequence[Definition]) -> tuple[str, ...]:
    """Everything in local definitions that would run code which is not lm-eval's."""
    found: list[str] = []
    for leaf in definitions:
        found += leaf.functions
        for entry in leaf.config.get("metric_list") or ():
            name = str(entry.get("metric")) if isinstance(entry, Mapping) else str(entry)
            if name.startswith("!function"):
                continue
            if name not in METRICS or (isinstance(entry, Mapping) and entry.get("hf_evaluate")):
                near = did_you_mean(name, METRICS)
                found.append(
                    f"{leaf.file}: metric {name!r} is none of lm-eval's own{near}, and would be "
                    "fetched as a script"
                )
    return tuple(dict.fromkeys([*found, *_unsafe(definitions)]))


def _unsafe(leaves: Sequence[Definition]) -> list[str]:
    return [
        f"{leaf.file}: unsafe_code: what the model writes is run"
        for leaf in leaves
        if leaf.config.get("unsafe_code")
    ]


def _place(spec: TaskSpec) -> str:
    return f"{spec.place}: tasks.{spec.name}" if spec.place else f"tasks.{spec.name}"
