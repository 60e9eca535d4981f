"""Folders that are written aside: what a kill left behind goes when its folder is made again."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from evalkit.weights.folders import written_aside

KILLED = """
import os, signal, sys, pathlib
from evalkit.weights.folders import written_aside
with written_aside(pathlib.Path(sys.argv[1]), sealed=True) as aside:
    (aside / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def hidden(folder):
    return sorted(entry.name for entry in folder.iterdir() if entry.name.startswith("."))


def test_what_a_kill_left_is_deleted_when_the_folder_is_made(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "a1")], check=False)
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "a12")], check=False)
    (tmp_path / ".a1.training").mkdir()
    assert len(hidden(tmp_path)) == 3
    with written_aside(tmp_path / "a1", sealed=True) as aside:
        (aside / "whole").write_text("whole")
        assert aside.is_dir()
    (left,) = hidden(tmp_path)  # another folder may be in the making, under its own lock
    assert left.startswith(".a12.")
    assert (tmp_path / "a1" / "whole").read_text() == "whole"


def test_without_a_lock_nothing_of_others_is_touched(tmp_path):
    (tmp_path / ".model.123.tmp").mkdir()
    with written_aside(tmp_path / "model") as aside:
        (aside / "file").write_text("")
    assert hidden(tmp_path) == [".model.123.tmp"]


@pytest.mark.parametrize("lasting", [True, False])
def test_only_what_is_to_last_waits_for_the_disk(tmp_path, monkeypatch, lasting):
    flushed, real = [], os.fsync

    def fsync(handle):
        flushed.append(os.fstat(handle).st_ino)
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with written_aside(tmp_path / "model", lasting=lasting) as aside:
        (aside / "file").write_text("whole")
    made = {
        entry.stat().st_ino for entry in (tmp_path, tmp_path / "model", tmp_path / "model/file")
    }
    assert set(flushed) == (made if lasting else set())
    assert (tmp_path / "model" / "file").read_text() == "whole"
