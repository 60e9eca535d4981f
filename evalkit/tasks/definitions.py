"""lm-eval's task definitions, read from their YAML without importing lm-eval.

A definition says which samples a task has and how they are put to a model. It may name Python
functions (`!function module.name`), which lm-eval imports: they are found here before it does.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from evalkit.errors import DataError
from evalkit.records import JsonObject

Kind = Literal["task", "group", "tag"]
METRICS = (
    "acc", "acc_all", "acc_bytes", "acc_mutual_info", "acc_norm", "bits_per_byte", "bleu",
    "brier_score", "bypass", "byte_perplexity", "chrf", "chrf++", "exact_match", "f1", "likelihood",
    "mcc", "perplexity", "ter", "word_perplexity",
)  # fmt: skip
"""The metrics that lm-eval 0.4.13 computes itself. For any other name it fetches a script."""
_IGNORED = {"__pycache__", ".ipynb_checkpoints"}
_FUNCTION = "!function "
_MOST_INCLUDES = 20
_MOST_BYTES = 4_000_000
_MOST_NODES = 200_000


@dataclass(frozen=True)
class Definition:
    """One task or group, with what it includes."""

    name: str
    kind: Kind
    file: Path
    config: JsonObject
    """Merged as lm-eval merges; a function is the text '!function module.name'."""
    files: tuple[Path, ...]
    """Every file that was read for it."""
    functions: tuple[str, ...] = ()
    """'file:line: !function module.name' of each."""

    @property
    def splits(self) -> dict[str, str]:
        """Which split has which use: {'test': 'validation', 'fewshot': 'dev'}."""
        uses = ("training", "validation", "test", "fewshot")
        named = {use: self.config.get(f"{use}_split") for use in uses}
        return {use: str(split) for use, split in named.items() if split is not None}

    @property
    def scored_split(self) -> str | None:
        """The split whose samples are scored."""
        return self.splits.get("test") or self.splits.get("validation")


@dataclass(frozen=True)
class Index:
    """The definitions of a folder, by name."""

    folder: Path
    files: Mapping[str, tuple[Kind, Path]]
    """Tasks and groups."""
    tags: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Everything that a suite may name."""
        return [*self.files, *self.tags]

    def kind(self, name: str) -> Kind:
        """What a name is. Raises KeyError where it is nothing."""
        return self.files[name][0] if name in self.files else "tag" if self.tags[name] else "task"

    def closure(self, name: str) -> Iterator[Definition]:
        """Every definition that running `name` needs: groups, and tasks once each.

        Raises:
            DataError: a definition names what is not there, or cannot be read.
        """
        seen: set[str] = set()
        waiting = [name]
        while waiting:
            current = waiting.pop()
            if current in seen:
                continue
            seen.add(current)
            if current in self.tags and current not in self.files:
                waiting += self.tags[current]
                continue
            if current not in self.files:
                raise DataError(f"{self.folder}: defines no task {current!r}, which {name} names")
            kind, file = self.files[current]
            definition = read_definition(file, kind, name=current)
            yield definition
            inline, named = _members(definition)
            yield from (member for member in inline if member.name not in self.names)
            waiting += [member for member in named if member in self.names]


def _members(definition: Definition) -> tuple[list[Definition], list[str]]:
    """Tasks that a group defines within itself, and the names that it refers to."""
    inline: list[Definition] = []
    named: list[str] = []
    members = definition.config.get("task") if definition.kind == "group" else None
    for member in members if isinstance(members, list) else ():
        if isinstance(member, Mapping):
            name = str(member.get("group") or member.get("task") or "")
            kind: Kind = "group" if "group" in member else "task"
            source = (definition.file, dict(member), definition.files, definition.functions)
            inline.append(Definition(name, kind, *source))
            if isinstance(member.get("task"), list):
                named += _members(inline[-1])[1]
            named.append(name)
        else:
            named.append(str(member))
    return inline, named


# ----------------------------------------------------------------------------- folders


def local_index(folder: Path) -> Index:
    """The definitions of a suite's own folder.

    Raises:
        DataError: there is no such folder, or a file in it is not YAML.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder of task definitions")
    files: dict[str, tuple[Kind, Path]] = {}
    tags: dict[str, list[str]] = {}
    read: _Read = {}
    for file in sorted(folder.glob("**/*.yaml")):
        if not _IGNORED & set(file.parts):
            _add(_merged(file, [], read)[0], file, files, tags)
    return Index(folder, files, {tag: tuple(names) for tag, names in tags.items()})


def builtin_folder() -> Path:
    """Where the installed lm-eval keeps its definitions; found without importing it."""
    spec = importlib.util.find_spec("lm_eval")
    places = spec.submodule_search_locations if spec is not None else None
    if not places:
        raise DataError("lm-eval is not installed: pip install lm-eval")
    return Path(places[0]) / "tasks"


def builtin_index(version: str, cache: Path) -> Index:
    """lm-eval's own definitions: thousands of files, read once for each version.

    Args:
        version: of lm-eval.
        cache: folder below which the index is kept.
    """
    folder = builtin_folder()
    note = cache / "digests" / f"lm-eval-{version}-tasks.json"
    try:
        known = json.loads(note.read_text(encoding="utf-8"))
        files = {name: (kind, folder / file) for name, (kind, file) in known["files"].items()}
        tags = {tag: tuple(names) for tag, names in known["tags"].items()}
    except (OSError, ValueError, KeyError, TypeError):
        index = local_index(folder)
        found = {n: (k, f.relative_to(folder).as_posix()) for n, (k, f) in index.files.items()}
        note.parent.mkdir(parents=True, exist_ok=True)
        aside = note.with_suffix(f".{os.getpid()}.tmp")
        aside.write_text(json.dumps({"files": found, "tags": index.tags}), encoding="utf-8")
        aside.replace(note)
        return index
    return Index(folder, files, tags)


def _add(
    config: JsonObject,
    file: Path,
    files: dict[str, tuple[Kind, Path]],
    tags: dict[str, list[str]],
) -> None:
    """Enter one file as lm-eval does: the first of several with one name counts."""
    if "group" in config and "class" not in config:
        files.setdefault(str(config["group"]), ("group", file))
    elif "task" in config and isinstance(config["task"], str) and config["task"] not in files:
        files[config["task"]] = ("task", file)
        tag = config.get("tag") or ()
        for name in [tag] if isinstance(tag, str) else tag:
            tags.setdefault(str(name), []).append(config["task"])


# ----------------------------------------------------------------------------- files


def read_definition(file: Path, kind: Kind, *, name: str) -> Definition:
    """One definition with everything that it includes.

    Raises:
        DataError: a file is missing, not YAML, or includes itself.
    """
    config, files, functions = _merged(file, [], {})
    return Definition(name, kind, file, config, tuple(files), tuple(functions))


_Read = dict[Path, tuple[JsonObject, list[str]]]
"""What was read already: thousands of definitions include the same few files."""


def _merged(file: Path, above: list[Path], read: _Read) -> tuple[JsonObject, list[Path], list[str]]:
    """(config, files, functions) of a file over what it includes."""
    if file in above or len(above) >= _MOST_INCLUDES:
        raise DataError(f"{file}: includes itself")
    if file not in read:
        read[file] = _load(file)
    own, functions = dict(read[file][0]), list(read[file][1])
    includes = own.pop("include", None) or []
    merged: JsonObject = {}
    files = [file]
    for included in includes if isinstance(includes, list) else [includes]:
        path = Path(os.path.normpath(file.parent / str(included)))
        below, below_files, more = _merged(path, [*above, file], read)
        # As lm-eval does: what a group contains is its own.
        below.pop("task_list", None)
        merged |= below
        files += below_files
        functions += more
    return {**merged, **own}, files, functions


def _load(file: Path) -> tuple[JsonObject, list[str]]:
    import yaml

    try:
        text = file.read_bytes()
        if len(text) > _MOST_BYTES:
            raise DataError(
                f"{file}: {len(text):,} bytes; a definition has at most {_MOST_BYTES:,}"
            )
        loader = _loader()(text)
        node = loader.get_single_node()
        if node is not None and _expanded(node, {}) > _MOST_NODES:
            what = f"more than {_MOST_NODES:,} values, counting what its anchors repeat"
            raise DataError(f"{file}: {what}")
        config = loader.construct_document(node) if node is not None else None
    except RecursionError as error:
        raise DataError(f"{file}: nested too deeply, or an anchor that holds itself") from error
    except ValueError as error:  # of a number or a date that is none
        raise DataError(f"{file}: not YAML that lm-eval reads: {error}") from error
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        what = getattr(error, "problem", None) or str(error).split("\n")[0]
        raise DataError(f"{file}{line}: not YAML that lm-eval reads: {what}") from error
    functions = [f"{file}:{line}: {text}" for line, text in loader.functions]
    return (dict(config) if isinstance(config, dict) else {}), functions


def _expanded(node: Any, known: dict[Any, int]) -> int:
    """How many values a YAML node holds, counting what its anchors repeat.

    Raises:
        RecursionError: it holds itself.
    """
    if node in known:
        if not known[node]:
            raise RecursionError
        return known[node]
    known[node] = 0
    below: Iterator[Any] = iter(())
    if isinstance(node.value, list):
        pairs = (part if isinstance(part, tuple) else (part,) for part in node.value)
        below = (one for pair in pairs for one in pair)
    known[node] = count = 1 + sum(_expanded(one, known) for one in below)
    return count


@cache
def _loader() -> Any:
    """A loader of plain data that keeps functions as text, and notes their lines."""
    import yaml

    class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        def __init__(self, stream: bytes) -> None:
            super().__init__(stream)
            self.functions: list[tuple[int, str]] = []

    def function(loader: Any, node: Any) -> str:
        text = _FUNCTION + str(loader.construct_scalar(node))
        loader.functions.append((node.start_mark.line + 1, text))
        return text

    Loader.add_constructor("!function", function)
    return Loader
