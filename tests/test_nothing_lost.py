"""Wherever a run dies, the next one goes on from there and comes to the same numbers, bit for bit."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from crashes import Killed, Point, Points, copied, power_off, put_back
from small_run import VARIANTS, numbers, small_run, write_suite

from evalkit.store import Store

INPUTS = ("suite.yaml", "data.jsonl")


@pytest.fixture(scope="module", autouse=True)
def cheap_collections():
    """The libraries' million objects are looked through after every job: once is enough."""
    import bitsandbytes  # noqa: F401
    import peft  # noqa: F401
    import trl  # noqa: F401

    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def watched(tmp_path_factory, tiny_folder):
    """An undisturbed run, with what was on the disk at each point of it."""
    folder = tmp_path_factory.mktemp("watched") / "place"
    images = tmp_path_factory.mktemp("images")
    write_suite(folder, tiny_folder)
    found: list[Point] = []

    def keep(point: Point) -> None:
        found.append(point)
        copied(folder, images / f"kill-{point.number}")
        power_off(folder, images / f"power-{point.number}", points.flushed)

    points = Points(keep, folder)
    points.flushed |= {(folder / name).stat().st_ino for name in INPUTS}
    with pytest.MonkeyPatch.context() as patch, points.watched(patch):
        record, jobs = small_run(folder)
    assert set(jobs.values()) == {"done"}
    return folder, images, found, numbers(record)


def stored_variants(folder: Path) -> set[str]:
    """What the last run of a folder's store has scored."""
    if not (folder / "runs.db").exists():
        return set()
    with Store.open(str(folder / "runs.db")) as store:
        if not store.list_runs(1):
            return set()
        return {v.name for v in store.load_run().variants if v.job is not None}


def goes_on(folder: Path, expected: dict[str, bytes]) -> None:
    """Runs again on what is there: nothing is lost, nothing half is taken for whole."""
    known = stored_variants(folder)
    record, jobs = small_run(folder)
    assert record.exit_code == 0, [v.job.error for v in record.variants if v.job]
    assert numbers(record) == expected
    scored = {name for name in VARIANTS if jobs[f"score {name}"] == "done"}
    assert scored == set(VARIANTS) - known
    assert {entry.suffix for entry in (folder / "cache" / "adapters").iterdir()} <= {
        "", ".lock", ".tmp", ".old",
    }  # fmt: skip


def test_there_are_many_points(watched):
    _, _, found, _ = watched
    kinds = [kind for kind in ("commit", "rename", "fsync") if any(kind in p.what for p in found)]
    assert kinds == ["commit", "rename", "fsync"]
    assert len(found) >= 50, [point.what for point in found]


def test_a_kill_at_any_point_loses_nothing(watched):
    folder, images, found, expected = watched
    for point in found:
        put_back(images / f"kill-{point.number}", folder)
        try:
            goes_on(folder, expected)
        except BaseException as error:
            error.add_note(f"killed at point {point.number} of {len(found)}: {point.what}")
            raise
