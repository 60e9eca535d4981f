"""What is on the disk at every point where a process could die: counted, and copied.

A copy of the files at a point is what a kill leaves there: no line of the process runs afterwards.
`power_off` also takes away what was not flushed to the disk by then.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine.default import DefaultDialect

SQLITE = (".db", ".db-wal", ".db-shm")
"""Files that SQLite flushes itself, where nobody here can see it."""


class Killed(BaseException):
    """Not an Exception: nothing but clean-up may catch it."""


@dataclass(frozen=True)
class Point:
    """A place in a run where the process could die."""

    number: int
    what: str
    """'before rename adapters/1f…', 'after commit', 'before fsync …'."""


@dataclass
class Points:
    """Calls `reached` before and after every commit, rename and flush below a folder."""

    reached: Callable[[Point], None]
    folder: Path
    flushed: set[int] = field(default_factory=set)
    """Inodes of files whose bytes are on the disk."""
    _count: int = 0
    _writes: bool = False

    def _at(self, when: str, what: str) -> None:
        self._count += 1
        self.reached(Point(self._count, f"{when} {what}"))

    @contextmanager
    def watched(self, monkeypatch) -> Iterator[None]:
        """Counts until the block ends."""
        real = {name: getattr(os, name) for name in ("rename", "replace", "fsync")}
        commit = DefaultDialect.do_commit

        def moving(name):
            def move(source, target, **options):
                label = f"rename {Path(target).name}"
                self._at("before", label)
                real[name](source, target, **options)
                self._at("after", label)

            return move

        def fsync(handle):
            self._at("before", "fsync")
            real["fsync"](handle)
            status = os.fstat(handle)
            self.flushed.add(status.st_ino)

        def begins(connection):
            self._writes = connection.get_execution_options().get("begin") == "IMMEDIATE"

        def do_commit(dialect, connection):
            if not self._writes:
                return commit(dialect, connection)
            self._at("before", "commit")
            commit(dialect, connection)
            return self._at("after", "commit")

        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", moving("rename"))
            patch.setattr(os, "replace", moving("replace"))
            patch.setattr(os, "fsync", fsync)
            patch.setattr(DefaultDialect, "do_commit", do_commit)
            sa.event.listen(sa.Engine, "begin", begins)
            try:
                yield
            finally:
                sa.event.remove(sa.Engine, "begin", begins)


def copied(folder: Path, to: Path) -> Path:
    """A folder as it is now, times of modification included; a file may vanish meanwhile."""
    shutil.copytree(folder, to, symlinks=True)
    return to


def power_off(folder: Path, to: Path, flushed: set[int]) -> Path:
    """A folder as a power cut may leave it: every name, and only the bytes that were flushed."""
    copied(folder, to)
    for file in folder.rglob("*"):
        if file.is_file() and file.suffix not in SQLITE and file.stat().st_ino not in flushed:
            (to / file.relative_to(folder)).write_bytes(b"")
    return to


def put_back(image: Path, folder: Path) -> None:
    """Makes a folder what it was: the same names, bytes and times."""
    shutil.rmtree(folder)
    shutil.copytree(image, folder, symlinks=True)
