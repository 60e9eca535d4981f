"""Pictures that were drawn before, kept beside the pages: the same numbers are not drawn twice.

Drawing takes most of a page's time, and a run whose numbers are all reused shows what the run
before it showed. A picture is found by a digest of all that it is drawn from, this code and the
drawing libraries' versions included. Lost or damaged, a file costs time and nothing else. Whoever
can write to this folder can write the pages too, so what lies there is trusted as they are.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, is_dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from evalkit.report.html.charts import NARROW, WIDE
from evalkit.report.whole_files import write_whole

DRAWN = ".drawn"
"""The folder of kept pictures, in the folder of the pages."""
_WIDTHS = {"wide": WIDE, "narrow": NARROW}
_LIBRARIES = ("altair", "vl-convert-python")

Picture = dict[str, Markup]
"""One chart in both widths: `wide` and `narrow`."""


class Drawings:
    """Draws charts, or takes them from a folder."""

    def __init__(self, pages: Path | None) -> None:
        """Args: pages: the folder that pages are written below; None keeps nothing."""
        self._folder = None if pages is None else pages / DRAWN

    def picture(self, draw: Callable[..., Markup], shown: object, **more: str) -> Picture:
        """A chart in both widths.

        Args:
            draw: makes it, by `draw(shown, **more, layout=…)`, out of its arguments alone.
            shown: dataclasses, sequences, mappings, arrays and plain values.
            more: further arguments.
        """
        if self._folder is None:
            return _drawn(draw, shown, more)
        path = self._folder / f"{_digest(draw, shown, more)}.json"
        with suppress(OSError, ValueError, KeyError, TypeError):
            kept = json.loads(path.read_text(encoding="utf-8"))
            return {width: Markup(kept[width]) for width in _WIDTHS}
        picture = _drawn(draw, shown, more)
        # Where the folder cannot be written to, the page will say so.
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(picture).encode(), flush=False)
        return picture


def _drawn(draw: Callable[..., Markup], shown: object, more: dict[str, str]) -> Picture:
    return {width: draw(shown, **more, layout=layout) for width, layout in _WIDTHS.items()}


def _digest(draw: Callable[..., Markup], shown: object, more: dict[str, str]) -> str:
    told = json.dumps([_made_by(), draw.__module__, draw.__qualname__, shown, more], default=_plain)
    return hashlib.sha256(told.encode()).hexdigest()[:32]


def _plain(value: object) -> Any:
    """What JSON does not know, by its parts."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    raise TypeError(f"a picture's key cannot hold {type(value).__name__}")


@cache
def _made_by() -> str:
    """What draws: the libraries, and the code of this room and of the words in its pictures."""
    versions = [importlib.metadata.version(name) for name in _LIBRARIES]
    digest = hashlib.sha256(repr(versions).encode())
    for room in ("evalkit.report", "evalkit.report.html"):
        code = [each for each in files(room).iterdir() if each.name.endswith(".py")]
        for each in sorted(code, key=lambda file: file.name):
            digest.update(each.read_bytes())
    return digest.hexdigest()
