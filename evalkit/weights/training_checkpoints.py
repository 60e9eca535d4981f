"""A training's checkpoints: sealed when they are whole, and gone on from only then."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.seals import is_unbroken, seal
from evalkit.weights.folders import flush

if TYPE_CHECKING:
    from transformers import TrainerCallback

_NAME = re.compile(r"checkpoint-(\d+)")


def last_whole_checkpoint(folder: Path, cache: Path) -> str | None:
    """The newest checkpoint that was written to its end; those that were not are deleted.

    The trainer writes a checkpoint file by file in its place, so that a kill leaves a part of one,
    which it would then try to go on from for ever.

    Args:
        folder: the trainer's.
        cache: evalkit's cache folder.
    """
    found = {
        int(match[1]): entry for entry in folder.iterdir() if (match := _NAME.fullmatch(entry.name))
    }
    for step in sorted(found, reverse=True):
        if is_unbroken(found[step], cache, unsealed=False):
            return str(found[step])
        shutil.rmtree(found[step])
    return None


def sealing() -> TrainerCallback:
    """What transformers calls when a checkpoint is written: flushes and seals it."""
    from transformers import TrainerCallback

    class Sealing(TrainerCallback):  # type: ignore[misc]
        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            if folder.is_dir():
                flush(folder)
                seal(folder)
                flush(folder)

    return Sealing()
