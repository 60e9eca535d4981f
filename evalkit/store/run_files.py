"""The file that runs travel in: one JSON document a line, compressed, with a digest at its end.

    ["evalkit runs", {"format": 1, "schema": "0004", "runs": ["20261121-224455-a3f1"]}]
    ["unit_sets", {...}]
    ["scores", {...}]
    ["runs", {...}]
    ["end", {"lines": 4, "sha256": "..."}]

What a document holds is in `evalkit.store.transfer`. The same runs give the same bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from evalkit.errors import EvalkitError, UsageError
from evalkit.records import JsonObject
from evalkit.store.json_columns import from_json, to_json
from evalkit.store.tables import REVISIONS

FORMAT: Final = 1
"""Raised when what was written before can no longer be read as it is."""

AddDocument = Callable[[str, JsonObject], str]
"""Writes a document of a kind, and returns its digest."""

_HEAD: Final = "evalkit runs"
_END: Final = "end"
_GZIP: Final = b"\x1f\x8b"


@dataclass(frozen=True)
class Document:
    """One line of the file."""

    kind: str
    body: JsonObject
    digest: str
    """As `digest_of` gives it."""


def digest_of(body: JsonObject) -> str:
    """SHA-256 of a document's JSON: what another document refers to it by."""
    return hashlib.sha256(to_json(body).encode("ascii")).hexdigest()


# ------------------------------------------------------------------------- writing


@contextmanager
def new_run_file(path: Path, runs: Sequence[str]) -> Iterator[AddDocument]:
    """Writes a file, whole or not at all, over an earlier one.

    Args:
        path: of the file; its folder is made.
        runs: their ids.

    Raises:
        UsageError: what is there is something else.
        EvalkitError: the file cannot be written.
    """
    if path.exists():
        _check_replaceable(path)
    temporary = path.with_name(f".{path.name}.tmp")
    with _written(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = temporary.open("wb")
    try:
        with raw:
            yield from _filled(path, raw, runs)
        with _written(path):
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _filled(path: Path, raw: BinaryIO, runs: Sequence[str]) -> Iterator[AddDocument]:
    whole, lines = hashlib.sha256(), 0
    # No name and no time: the same runs give the same bytes.
    file = gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0)

    def add(kind: str, body: JsonObject) -> str:
        nonlocal lines
        line = to_json([kind, body]).encode("ascii") + b"\n"
        whole.update(line)
        lines += 1
        with _written(path):
            file.write(line)
        return digest_of(body)

    add(_HEAD, {"format": FORMAT, "schema": REVISIONS[-1], "runs": list(runs)})
    yield add
    add(_END, {"lines": lines, "sha256": whole.hexdigest()})
    with _written(path):
        file.close()
        raw.flush()
        os.fsync(raw.fileno())


@contextmanager
def _written(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = f"{path}: the runs cannot be written ({error.strerror or error})"
        raise EvalkitError(what) from error


def _check_replaceable(path: Path) -> None:
    try:
        next(read_run_file(path))
    except UsageError as error:
        what = "not written, for what is there is no file of exported runs"
        raise UsageError(f"{what}: {error}") from None


# ------------------------------------------------------------------------- reading


def check_run_file(path: Path) -> tuple[str, ...]:
    """Reads all of a file, and returns the ids of its runs.

    Raises:
        UsageError: it cannot be read, is no such file, is damaged, or is of a newer evalkit.
    """
    documents = read_run_file(path)
    head = next(documents)
    for _ in documents:
        pass
    return tuple(head.body["runs"])


def read_run_file(path: Path) -> Iterator[Document]:
    """The documents of a file, the header first; the end is checked and left out.

    Raises:
        UsageError: as `check_run_file`. Damage may show only at the end.
    """
    whole, lines = hashlib.sha256(), 0
    for line in _lines(path):
        kind, body = _parsed(path, line)
        if lines == 0:
            _check_head(path, kind, body)
        if kind == _END:
            if body != {"lines": lines, "sha256": whole.hexdigest()}:
                raise _damaged(path, "its digest is another")
            return
        whole.update(line)
        lines += 1
        yield Document(kind, body, digest_of(body))
    raise _damaged(path, "its end is missing") if lines else _no_run_file(path)


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as raw:
            if raw.read(len(_GZIP)) != _GZIP:
                raise _no_run_file(path)
            raw.seek(0)
            with gzip.GzipFile(fileobj=raw) as file:
                try:
                    yield from file
                except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                    raise _damaged(path, str(error)) from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from error


def _parsed(path: Path, line: bytes) -> tuple[str, JsonObject]:
    try:
        kind, body = from_json(line)
    except (ValueError, TypeError, RecursionError) as error:
        raise _damaged(path, "a line is no document") from error
    if not isinstance(kind, str) or not isinstance(body, dict):
        raise _damaged(path, "a line is no document")
    return kind, cast("JsonObject", body)


def _check_head(path: Path, kind: str, body: dict[str, Any]) -> None:
    if kind != _HEAD or not isinstance(body.get("format"), int):
        raise _no_run_file(path)
    newer = f"{path}: was written by a newer evalkit"
    if body["format"] > FORMAT:
        what = f"format {body['format']}, and this one reads up to {FORMAT}"
        raise UsageError(f"{newer} ({what}); nothing was imported. Update evalkit")
    if body.get("schema") not in REVISIONS:
        what = f"schema {body.get('schema')}, and this one knows up to {REVISIONS[-1]}"
        raise UsageError(f"{newer} ({what}); nothing was imported. Update evalkit")


def _no_run_file(path: Path) -> UsageError:
    return UsageError(f"{path}: holds no exported runs; `evalkit runs export` writes such a file")


def _damaged(path: Path, why: str) -> UsageError:
    return UsageError(f"{path}: is damaged ({why}); nothing was imported. Export the runs again")
