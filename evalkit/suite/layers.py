"""A suite's layers as one tree: the file, what it extends, and the command line's `--set`.

Mappings merge deeply, lists replace, `null` deletes. A file that a layer names is relative to the
file that wrote it, or to the working directory for `--set`.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evalkit.errors import Problem, SuiteError, UsageError
from evalkit.suite.file_names import absolute_paths, is_data_file
from evalkit.suite.located import Node, Source, read_yaml, text_of

MAX_BYTES = 1_000_000
MAX_LAYERS = 10
_SUFFIXES = (".yaml", ".yml")

_SHORTHANDS = {("data", "*"): "dataset", ("model",): "source", ("tasks", "*"): "task"}
"""Mappings that may be written as one string, and the key that the string then is."""

_REPLACES = {
    (("data", "*"), "dataset"): ("config", "revision"),
    (("model",), "source"): ("revision",),
    (("adapters", "*"), "from"): ("on", "data", "lora", "training", "revision"),
    (("adapters", "*", "training"), "steps"): ("epochs",),
    (("adapters", "*", "training"), "epochs"): ("steps",),
}
"""What a layer that changes a key takes away from the layers below it: another data set has other
revisions, and so on."""


@dataclass(frozen=True)
class SuiteTree:
    """All layers of a suite, merged."""

    root: Node
    text: str
    """The layers' source, lowest first, each under a comment that names it."""

    def locate(self, where: Sequence[str | int]) -> Node:
        """Return the value at a dotted place, or the nearest one above it that was written."""
        node = self.root
        for part in where:
            below = _step_into(node, part)
            if below is None:
                break
            node = below
        return node


def _step_into(node: Node, part: str | int) -> Node | None:
    if isinstance(node.value, list):
        return node.value[part] if isinstance(part, int) and part < len(node.value) else None
    return node.at(str(part))


def read_suite_tree(path: Path, *, overrides: Sequence[str] = ()) -> SuiteTree:
    """Read a suite's file, everything it extends, and lay the overrides on top.

    Args:
        path: the YAML file.
        overrides: `dotted.key=VALUE` each, VALUE in YAML.

    Raises:
        SuiteError: a file is not YAML, not a mapping, or extends what it cannot.
        UsageError: there is no such file, or an override is malformed.
    """
    if not path.is_file():
        raise UsageError(f"{path}: there is no such suite file{_instead_of(path)}")
    layers = _read_layers(path)
    root, texts = layers[0][1], [f"# {layers[0][0]}\n{layers[0][2]}"]
    for label, node, text in layers[1:]:
        root = _merge(root, node, at=())
        texts.append(f"# {label}\n{text}")
    for index, override in enumerate(overrides):
        root = _merge(root, _read_override(override, index=MAX_LAYERS + 1 + index), at=())
        texts.append(f"# --set {override}\n")
    return SuiteTree(absolute_paths(root), "\n".join(texts))


def _instead_of(path: Path) -> str:
    """What may have been meant: a suite in the same folder, if there is one of a similar name."""
    try:
        if path.is_dir():
            return ": it is a folder"
        there = [file for file in path.parent.iterdir() if file.suffix.lower() in _SUFFIXES]
    except (OSError, ValueError):  # no such folder, or no name that a file can have
        return ""
    # A suffix is no likeness: names are compared without it.
    named = {file.stem: str(file) for file in sorted(there)}
    near = difflib.get_close_matches(path.stem, named, n=1)
    return f" (did you mean '{named[near[0]]}'?)" if near else ""


# ----------------------------------------------------------------------------- extends


def _read_layers(path: Path) -> list[tuple[str, Node, str]]:
    """Return (label, tree, text) of a file and all it extends, the lowest layer first."""
    layers: list[tuple[str, Node, str]] = []
    seen: list[Path] = []
    current = path
    while True:
        seen.append(current.resolve())
        node, text = _read_file(current, index=MAX_LAYERS - len(layers))
        below = node.at("extends")
        layers.append((str(current), _without(node, ("extends",)), text))
        if below is None or below.value is None:
            return layers[::-1]
        current = _extended(current, below, seen)


def _extended(path: Path, extends: Node, seen: Sequence[Path]) -> Path:
    if not isinstance(extends.value, str) or not extends.value:
        raise _stop(extends.place, "extends", "must be the name of one suite file")
    named = os.path.expanduser(extends.value)  # noqa: PTH111 - Path's raises on an unknown user
    target = Path(os.path.normpath(path.parent / named))
    if "\0" in extends.value or not target.is_file():
        what = f"there is no file {str(target)!r}{_instead_of(target)}"
        raise _stop(extends.place, "extends", what)
    if target.suffix.lower() not in _SUFFIXES:
        raise _stop(extends.place, "extends", f"{str(target)!r} is no suite (allowed: .yaml, .yml)")
    checkout = _checkout(path)
    if checkout is not None and not target.resolve().is_relative_to(checkout):
        # Its text is stored and shown: who writes a suite may not choose any file of this machine.
        what = f"{target} lies outside of the checkout {checkout}"
        raise _stop(extends.place, "extends", what)
    if target.resolve() in seen:
        raise _stop(extends.place, "extends", f"{target} extends this file: they go in a circle")
    if len(seen) >= MAX_LAYERS:
        raise _stop(extends.place, "extends", f"more than {MAX_LAYERS} files on top of each other")
    return target


def _checkout(path: Path) -> Path | None:
    """The git checkout that a file lies in."""
    resolved = path.resolve()
    return next((folder for folder in resolved.parents if (folder / ".git").exists()), None)


def _read_file(path: Path, *, index: int) -> tuple[Node, str]:
    source = Source(str(path), Path(os.path.abspath(path)).parent, index)  # noqa: PTH100
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise _stop(str(path), "", f"cannot be read: {error.strerror}") from error
    if len(raw) > MAX_BYTES:
        raise _stop(str(path), "", f"{len(raw)} bytes; a suite has at most {MAX_BYTES}")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n")
        raise _stop(source.place(line), "", "not UTF-8 text") from None
    node = read_yaml(text, source)
    if not isinstance(node.value, dict):
        what = "the file is empty" if node.value is None else "must be a mapping of keys"
        raise _stop(node.place, "", f"{what}: a suite has at least 'name', 'model' and 'variants'")
    return node, text


def _stop(place: str, where: str, what: str) -> SuiteError:
    return SuiteError([Problem(place, where, what)])


# ----------------------------------------------------------------------------- --set


def _read_override(override: str, *, index: int) -> Node:
    """Return `a.b=VALUE` as the mapping {a: {b: VALUE}}."""
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise UsageError(f"--set {override}: write --set dotted.key=VALUE")
    if not text.strip():
        raise UsageError(f"--set {override}: there is no value after '=' (null deletes the key)")
    source = Source(f"--set {override}", Path.cwd(), index, lines=False)
    try:
        node = read_yaml(text, source)
    except SuiteError as error:
        what = error.problems[0].what
        raise UsageError(f"--set {override}: {what} (quote the value if it is text)") from None
    for part in reversed(parts):
        node = dataclasses.replace(node, value={part: node})
    return node


# ----------------------------------------------------------------------------- merging


def _merge(base: Node, over: Node, *, at: tuple[str, ...]) -> Node:
    """Lay one value over another; `at` is where in the suite they are."""
    shorthand = _at(at, _SHORTHANDS)
    base_value, over_value = base.value, over.value
    if shorthand and isinstance(base_value, str) and isinstance(over_value, dict):
        base_value = {shorthand: base}
    if shorthand and isinstance(base_value, dict) and isinstance(over_value, str):
        over_value = {shorthand: over}
    if at == ("tasks",) and isinstance(base_value, list) and isinstance(over_value, dict):
        base_value = _by_name(base_value)
    if not isinstance(base_value, dict) or not isinstance(over_value, dict):
        return over
    kinds = {_several(base_value), _several(over_value)}
    if at == ("metrics", "perplexity") and kinds == {False, True}:
        return over
    merged = _drop_replaced(base_value, over_value, at=at)
    for key, value in over_value.items():
        if key not in merged:
            # A task that is not there is not added by taking it away.
            merged |= {} if at == ("tasks",) and value.value is None else {key: value}
        elif value.value is None:
            del merged[key]
        else:
            merged[key] = _merge(merged[key], value, at=(*at, key))
    return dataclasses.replace(base, value=merged)


def _by_name(tasks: list[Node]) -> dict[str, Node]:
    """Tasks of a list as a mapping of names, so that a layer above can change one of them."""
    named: dict[str, Node] = {}
    for node in tasks:
        name = node.at("name") or node.at("task") or node
        key = str(text_of(name.value)) if not isinstance(name.value, dict | list) else ""
        named[key] = _without(node, ("name",))
    return named


def _several(perplexity: dict[str, Node]) -> bool | None:
    """Whether settings are of several named corpora, not of one; None if nothing says it."""
    given = [node.value for node in perplexity.values() if node.value is not None]
    return all(isinstance(value, dict) for value in given) if given else None


def _drop_replaced(
    base: dict[str, Node], over: dict[str, Node], *, at: tuple[str, ...]
) -> dict[str, Node]:
    gone: set[str] = set()
    for (where, key), siblings in _REPLACES.items():
        if _matches(at, where) and key in over and over[key].value is not None:
            if key in base and base[key].value == over[key].value:
                continue
            gone.update(siblings)
            if key == "dataset" and is_data_file(over[key].value):
                gone.add("split")
    return {key: node for key, node in base.items() if key not in gone}


def _at(at: tuple[str, ...], table: dict[tuple[str, ...], str]) -> str | None:
    return next((value for where, value in table.items() if _matches(at, where)), None)


def _matches(at: tuple[str, ...], where: tuple[str, ...]) -> bool:
    return len(at) == len(where) and all(w in ("*", a) for a, w in zip(at, where, strict=True))


def _without(node: Node, keys: tuple[str, ...]) -> Node:
    if not isinstance(node.value, dict):
        return node
    value = {key: below for key, below in node.value.items() if key not in keys}
    return dataclasses.replace(node, value=value)
