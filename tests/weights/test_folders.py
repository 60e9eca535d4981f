"""Folders that are written aside: what a kill left behind goes when its folder is made again."""

from __future__ import annotations

import subprocess
import sys

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
