"""Writes a folder whole or not at all: aside, flushed to the disk, then renamed into place.

What a run alone needs is not flushed: a power cut may take it, since no other run looks for it.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from evalkit.errors import WeightsError
from evalkit.seals import seal

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_DISK_FULL_WORDS = ("no space left", "disk quota exceeded", "os error 28", "os error 122")


@contextlib.contextmanager
def written_aside(folder: Path, *, sealed: bool = False, lasting: bool = True) -> Iterator[Path]:
    """Gives an empty folder to fill; it becomes `folder` when the block ends without an error.

    An existing `folder` is replaced. After an error (Ctrl-C included) nothing of it is left; after
    a kill, whatever has the folder's name is whole.

    Args:
        folder: the folder to be.
        sealed: write down the digests of its files, for who reads them (`evalkit.seals`). It is a
            folder of the cache then, whose lock the caller holds: what a process that was killed
            left beside it is deleted.
        lasting: whole after a power cut too. Not what this run alone reads and deletes: a model in
            16 bits takes longer to reach the disk than to be read again out of memory.

    Raises:
        WeightsError: the disk is full.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    replaced = aside.with_suffix(".old")
    if sealed:
        delete_leftovers(folder)
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir()
        yield aside
        if sealed:
            seal(aside)
        if lasting:
            flush(aside)
        if folder.exists():
            # Deleting takes a while, and half of a folder must not be found under its name.
            shutil.rmtree(replaced, ignore_errors=True)
            folder.rename(replaced)
        aside.rename(folder)
        if lasting:
            _flush_entry(folder.parent)
    except Exception as error:
        if is_disk_full(error):
            free = shutil.disk_usage(folder.parent).free
            raise WeightsError(
                f"{folder}: the disk is full ({free / 1e6:.0f} MB free); nothing of it was kept. "
                "Free some space, or set EVALKIT_CACHE to a folder on another disk"
            ) from error
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def delete_leftovers(folder: Path) -> None:
    """Deletes what was begun beside a folder and never finished; its lock must be held."""
    for entry in folder.parent.glob(f".{glob.escape(folder.name)}.*"):
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error means a full disk; safetensors says so in words only."""
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        return True
    return any(words in str(error).lower() for words in _DISK_FULL_WORDS)


def flush(folder: Path) -> None:
    """Asks the kernel to write a folder, with every file below it, to the disk."""
    for file in folder.rglob("*"):
        if file.is_file():
            _flush_entry(file)
    _flush_entry(folder)


def _flush_entry(path: Path) -> None:
    """Asks the kernel to write a file, or a folder's list of names, to the disk."""
    if path.is_dir() and os.name == "nt":  # Windows opens no folders
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
