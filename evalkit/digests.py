"""Content digests of files, remembered by path, size and modification time."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from evalkit.errors import WeightsError

_BLOCK = 2**22


def digest_json(value: object) -> str:
    """SHA-256 of a JSON value in canonical form (sorted keys, no spaces), in hexadecimal."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_file(path: Path, cache: Path) -> str:
    """SHA-256 of a file's bytes; read again only when its size or modification time moved.

    Raises:
        WeightsError: the file cannot be read.
    """
    try:
        status = path.stat()
        stamp = [str(path.resolve()), status.st_size, status.st_mtime_ns]
        note = cache / "digests" / f"{digest_json(stamp[0])[:32]}.json"
        known = _read_note(note)
        if known.get("stamp") == stamp:
            return str(known["digest"])
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256", _bufsize=_BLOCK).hexdigest()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}") from error
    _write_note(note, {"stamp": stamp, "digest": digest})
    return digest


def digest_folder(folder: Path, files: Iterable[Path], cache: Path) -> str:
    """One digest over several files of a folder: their relative names and their contents."""
    parts = {file.relative_to(folder).as_posix(): digest_file(file, cache) for file in files}
    return digest_json(parts)


def _read_note(note: Path) -> dict[str, Any]:
    try:
        known = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _write_note(note: Path, content: dict[str, Any]) -> None:
    """Best effort: a digest that is not remembered is computed again."""
    aside = note.with_suffix(f".{os.getpid()}.tmp")
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps(content), encoding="utf-8")
        aside.replace(note)
    except OSError:
        aside.unlink(missing_ok=True)
