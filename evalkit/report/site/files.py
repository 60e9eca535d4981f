"""Files that are written whole, only where they differ, and what was made of what."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evalkit.errors import EvalkitError
from evalkit.report.whole_files import write_whole

MANIFEST = ".site.json"
LIGHT_MARK = '<meta name="generator" content="evalkit: a short page">'
"""Near the top of every light page: a later, whole page takes its place."""
_HEAD = 2048


@dataclass
class Manifest:
    """What an earlier build made of what. Lost or damaged, it costs time and nothing else."""

    folders: dict[str, str] = field(default_factory=dict)
    """The folder of each suite's own pages."""
    pages: dict[str, str] = field(default_factory=dict)
    """Page below the site's folder, with forward slashes: a digest of what it was made of."""


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a site; an empty one where there is none, or one that cannot be read."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return Manifest(_texts(found["folders"], plain=True), _texts(found["pages"]))
    return Manifest()


def _texts(found: Any, *, plain: bool = False) -> dict[str, str]:
    if not isinstance(found, Mapping) or not all(isinstance(v, str) for v in found.values()):
        raise ValueError
    if plain and any(Path(value).name != value for value in found.values()):
        # A folder that leads elsewhere was not written by this code.
        raise ValueError
    return dict(found)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes the manifest, where it changed."""
    told = {"folders": manifest.folders, "pages": manifest.pages}
    write_if_changed(folder / MANIFEST, json.dumps(told, indent=0, sort_keys=True) + "\n")


def write_if_changed(path: Path, text: str) -> bool:
    """Writes a file, whole or not at all.

    Returns:
        False where it says the same already, and was left alone.

    Raises:
        EvalkitError: it cannot be written.
    """
    content = text.encode("utf-8")
    try:
        with suppress(FileNotFoundError):
            if path.stat().st_size == len(content) and path.read_bytes() == content:
                return False
        path.parent.mkdir(parents=True, exist_ok=True)
        # No flush: pages can be made again, and a thousand take minutes on a slow disk.
        write_whole(path, content, flush=False)
    except OSError as error:
        raise EvalkitError(
            f"{path}: the page cannot be written ({error.strerror or error}). Name another folder "
            "with --site, or move what is in the way"
        ) from error
    return True


def is_whole(path: Path) -> bool:
    """Whether a run's whole page is there: neither missing, nor empty, nor a light one."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return False
    return bool(head) and LIGHT_MARK.encode() not in head


def is_there(path: Path) -> bool:
    """Whether a page is there and not empty."""
    try:
        return path.stat().st_size > 0
    except OSError:
        return False
