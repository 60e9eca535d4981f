"""Pages that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_whole(path: Path, content: bytes, *, flush: bool) -> None:
    """Writes a file aside and moves it into its place.

    Args:
        path: in a folder that is there.
        content: of the whole file.
        flush: wait until the disk has it. For many pages that can be made again that takes minutes.

    Raises:
        OSError: it cannot be written; nothing of it is left.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".page-", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            if flush:
                file.flush()
                os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
