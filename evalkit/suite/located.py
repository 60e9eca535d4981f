"""YAML 1.2 text as a tree in which every value knows its file and line. Nothing is executed.

Only scalars, lists and mappings exist: tags that would build objects are refused, anchors are
bounded, and a scalar keeps the characters it was written with, so that a revision of digits stays
what it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode
from ruamel.yaml.nodes import Node as YamlNode

from evalkit.errors import Problem, SuiteError

MAX_NODES = 20_000
"""More values than this after anchors are expanded is no suite."""
MAX_DEPTH = 20

_CORE = "tag:yaml.org,2002:"
_PLAIN_TAGS = {"str", "int", "float", "bool", "null", "timestamp", "merge", "value"}
"""`timestamp`, `merge` and `value` are what ruamel calls dates, `<<` and `=`: plain text here."""

_INT = re.compile(r"[-+]?[0-9]+")
_PREFIXED_INT = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


class WrittenInt(int):
    """A whole number that remembers how it was written: `007` is 7, and `007` as text."""

    text: str

    @classmethod
    def of(cls, number: int, text: str) -> WrittenInt:
        """Return the number with the characters it was written in."""
        written = cls(number)
        written.text = text
        return written


class WrittenFloat(float):
    """A number that remembers how it was written: `1e10` is 1e10, and `1e10` as text."""

    text: str

    @classmethod
    def of(cls, number: float, text: str) -> WrittenFloat:
        """Return the number with the characters it was written in."""
        written = cls(number)
        written.text = text
        return written


Scalar: TypeAlias = str | WrittenInt | WrittenFloat | bool | None


@dataclass(frozen=True)
class Node:
    """One value of a suite, and where it was written."""

    value: dict[str, Node] | list[Node] | Scalar
    place: str
    """`file:line` of its key, or of itself in a list; or the `--set` that gave it."""
    folder: Path
    """What a relative path in it is relative to."""
    order: tuple[int, int] = (0, 0)
    """Which source it came from, and its line there: problems are listed in this order."""

    def at(self, key: str) -> Node | None:
        """Return the value under a key, None where this is no mapping or lacks it."""
        return self.value.get(key) if isinstance(self.value, dict) else None

    def plain(self) -> Any:
        """Return the value without places: dicts, lists and scalars."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value


@dataclass(frozen=True)
class Source:
    """Where a piece of YAML comes from."""

    label: str
    """What problems name: the file as given, or the whole `--set` argument."""
    folder: Path
    index: int
    """Position among the sources of one suite."""
    lines: bool = True
    """Whether a line number means anything."""

    def place(self, line: int | None) -> str:
        """Return `file:line` for a line counted from 0."""
        return f"{self.label}:{line + 1}" if self.lines and line is not None else self.label


def read_yaml(text: str, source: Source) -> Node:
    """Return YAML text as a tree of located values.

    Raises:
        SuiteError: it is not YAML, has duplicate keys, or tags that are not plain data.
    """
    try:
        root = YAML(typ="safe", pure=True).compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line if mark is not None else None
        raise SuiteError([Problem(source.place(line), "", _syntax(error))]) from None
    except RecursionError:
        raise SuiteError([Problem(source.place(None), "", "nested too deeply")]) from None
    except (YAMLError, ValueError, OverflowError) as error:
        what = "not YAML: " + " ".join(str(error).split())
        raise SuiteError([Problem(source.place(None), "", what)]) from None
    if root is None:
        return Node(None, source.place(0), source.folder, (source.index, 0))
    reader = _Reader(source)
    tree = reader.read(root, line=root.start_mark.line, where=())
    if reader.problems:
        raise SuiteError(reader.problems)
    return tree


def _syntax(error: MarkedYAMLError) -> str:
    parts = [part for part in (error.context, error.problem) if part]
    what = "not YAML: " + ", ".join(" ".join(str(part).split()) for part in parts)
    return what + (" (indent with spaces, not tabs)" if "\\t" in what else "")


class _Reader:
    """Turns composed nodes into located values; collects what is wrong on the way."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.problems: list[Problem] = []
        self.count = 0

    def read(self, node: YamlNode, *, line: int, where: tuple[str, ...]) -> Node:
        self.count += 1
        if self.count > MAX_NODES:
            self._stop(line, f"more than {MAX_NODES} values, counting what its anchors repeat")
        if len(where) > MAX_DEPTH:
            self._stop(line, f"nested more than {MAX_DEPTH} deep")
        value: dict[str, Node] | list[Node] | Scalar
        if isinstance(node, MappingNode):
            self._expect_tag(node, {"map"}, where)
            value = self._mapping(node, where)
        elif isinstance(node, SequenceNode):
            self._expect_tag(node, {"seq"}, where)
            value = [
                self.read(item, line=item.start_mark.line, where=(*where, str(index)))
                for index, item in enumerate(node.value)
            ]
        else:
            self._expect_tag(node, _PLAIN_TAGS, where)
            value = _scalar(tag=str(node.tag).removeprefix(_CORE), text=str(node.value))
        return Node(value, self.source.place(line), self.source.folder, (self.source.index, line))

    def _mapping(self, node: MappingNode, where: tuple[str, ...]) -> dict[str, Node]:
        entries: dict[str, Node] = {}
        for key, value in node.value:
            line = key.start_mark.line
            if not isinstance(key, ScalarNode):
                self._add(line, where, "a key is plain text, not a list or a mapping")
                continue
            name = str(key.value)
            if name in entries:
                first = entries[name].place.rpartition(":")[2]
                self._add(line, (*where, name), f"the key is there already (line {first})")
                continue
            entries[name] = self.read(value, line=line, where=(*where, name))
        return entries

    def _expect_tag(self, node: YamlNode, allowed: set[str], where: tuple[str, ...]) -> None:
        tag = str(node.tag)
        if tag.removeprefix(_CORE) not in allowed or not tag.startswith(_CORE):
            shown = tag.replace(_CORE, "!!")
            what = f"the tag {shown} is not allowed: a suite is plain data, nothing in it is run"
            self._add(node.start_mark.line, where, what)

    def _add(self, line: int, where: tuple[str, ...], what: str) -> None:
        self.problems.append(Problem(self.source.place(line), ".".join(where), what))

    def _stop(self, line: int, what: str) -> None:
        raise SuiteError([*self.problems, Problem(self.source.place(line), "", what)])


def _scalar(*, tag: str, text: str) -> Scalar:
    """Return a scalar by YAML 1.2's core schema; what is not exactly that is text."""
    if tag == "null":
        return None
    if tag == "bool" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if tag in ("int", "float"):
        return _number(text)
    return text


def _number(text: str) -> Scalar:
    if _PREFIXED_INT.fullmatch(text):
        return WrittenInt.of(int(text, 0), text)
    # Beyond any setting; and int() of thousands of digits is slow, or refused by Python.
    if len(text) > 40:
        return text
    if _INT.fullmatch(text):
        return WrittenInt.of(int(text), text)
    if _FLOAT.fullmatch(text):
        return WrittenFloat.of(float(text), text)
    if _NOT_FINITE.fullmatch(text):
        return WrittenFloat.of(float(text.replace(".", "")), text)
    return text


def text_of(value: object) -> object:
    """Return a number as the text it was written as; anything else as it is."""
    return value.text if isinstance(value, WrittenInt | WrittenFloat) else value
