"""The weights at the end of a beginning that several variants share: made once, kept in files.

Whoever makes such weights first writes them down, and the others go on from the files, as a path
that quantises them does in any case. They last as long as the run, whose base and adapters decide
what they are.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from evalkit import paths
from evalkit.weight_files import read_json
from evalkit.weights.building import BuildContext
from evalkit.weights.folders import is_disk_full, written_aside
from evalkit.weights.loading import quiet_libraries
from evalkit.weights.quantization import stored_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_NOTES = "built.json"
_ROOM = 3
"""As many times their size must be free on the disk: a reload check and a path that quantises write
their own copies, and come first."""


@dataclass(frozen=True)
class Beginning:
    """What there is to know of the weights in a folder beside themselves."""

    load_dtype: str
    kept: str | None
    """A kept checkpoint of the base as the first `quantize` stores it."""
    notes: tuple[str, ...]
    seconds: Mapping[str, float]
    """Of each step that made them."""
    elapsed: float
    """Seconds from the start until they were there."""


def longest_kept(path: paths.Path, context: BuildContext) -> tuple[int, Path, Beginning] | None:
    """How many steps of a path were taken already, the folder of what came of them, its notes."""
    for length in range(len(path), 0, -1):
        folder = context.shared.get(path[:length])
        if folder is not None and (folder / _NOTES).is_file():
            noted = read_json(folder / _NOTES)
            return length, folder, Beginning(**{**noted, "notes": tuple(noted["notes"])})
    return None


def keep(model: PreTrainedModel, folder: Path, beginning: Beginning) -> bool:
    """Writes weights down for the variants that begin with the same steps.

    Args:
        model: in 16 or 32 bits; left as it is.
        folder: `BuildContext.shared` of the steps that made it.
        beginning: what is noted beside it.

    Returns:
        Whether they are there: not where the disk has little room.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if folder.is_dir():
            return True
        if shutil.disk_usage(folder.parent).free < _ROOM * stored_bytes(model):
            return False
        try:
            with written_aside(folder, lasting=False) as aside, quiet_libraries():
                model.save_pretrained(aside)
                text = json.dumps(asdict(beginning), indent=1)
                (aside / _NOTES).write_text(text, encoding="utf-8")
        except Exception as error:
            if not is_disk_full(error.__cause__ or error):
                raise
            return False  # nobody needs them to be there
        return True
