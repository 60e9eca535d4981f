"""A cached folder's seal: the digest of each of its files, written last and checked on reading."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from evalkit.digests import digest_file
from evalkit.errors import WeightsError

SEAL = "sealed.json"


def seal(folder: Path) -> None:
    """Writes down the SHA-256 of every file of a folder, by its relative name.

    Raises:
        OSError: the seal cannot be written.
    """
    digests = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.name != SEAL:
            with file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            digests[file.relative_to(folder).as_posix()] = digest
    (folder / SEAL).write_text(json.dumps(digests, indent=1), encoding="utf-8")


def is_unbroken(folder: Path, cache: Path, *, unsealed: bool = True) -> bool:
    """Whether a folder is there and every file is what its seal says.

    Args:
        folder: as `seal` left it.
        cache: where digests of files are remembered: a file is read again only when it moved.
        unsealed: what to say of a folder without a seal: caches of earlier versions have none.
    """
    if not folder.is_dir():
        return False
    if not (folder / SEAL).exists():
        return unsealed
    try:
        promised = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        return all(digest_file(folder / name, cache) == told for name, told in promised.items())
    except (OSError, ValueError, AttributeError, WeightsError):
        return False
