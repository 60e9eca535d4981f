"""Wherever a run dies, the next one goes on from there, to the same numbers bit for bit."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from crashes import Killed, Point, Points, copied, power_off, put_back
from small_run import SHARING, numbers, small_run, write_suite

from evalkit.errors import StoreError
from evalkit.store import Store

pytestmark = pytest.mark.system

INPUTS = ("suite.yaml", "data.jsonl")


@pytest.fixture(scope="module")
def watched(tmp_path_factory, tiny_folder, on_the_cpu):
    """An undisturbed run, with what was on the disk at each point of it.

    On the CPU: a process that has looked for CUDA cannot be forked into ones that use it.
    """
    folder = tmp_path_factory.mktemp("watched") / "place"
    images = tmp_path_factory.mktemp("images")
    write_suite(folder, tiny_folder, variants=SHARING)
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
    scored = {name for name in SHARING if jobs[f"score {name}"] == "done"}
    assert scored == set(SHARING) - known
    assert {entry.suffix for entry in (folder / "cache" / "adapters").iterdir()} <= {
        "", ".lock", ".tmp", ".old",
    }  # fmt: skip


def test_there_are_many_points(watched):
    _, _, found, _ = watched
    kinds = [kind for kind in ("commit", "rename", "fsync") if any(kind in p.what for p in found)]
    assert kinds == ["commit", "rename", "fsync"]
    assert len(found) >= 50, [point.what for point in found]


@pytest.mark.parametrize("how", ["kill", "power"])
def test_a_run_that_dies_anywhere_is_gone_on_from(watched, how):
    """Before an event a kill leaves all that was written, after it a power cut what was flushed."""
    folder, images, found, expected = watched
    when = {"kill": "before", "power": "after"}[how]
    chosen = [point for point in found if point.what.startswith(when)]
    assert len(chosen) >= 20, [point.what for point in found]
    for point in chosen:
        put_back(images / f"{how}-{point.number}", folder)
        try:
            goes_on(folder, expected)
        except BaseException as error:
            error.add_note(f"{how} at point {point.number} of {len(found)}: {point.what}")
            raise


def test_a_crash_that_cleans_up_on_its_way_out_loses_nothing(watched, tmp_path, tiny_folder):
    """What stops Python itself runs every clean-up: those must not take anything along."""
    _, _, found, expected = watched
    folder = tmp_path / "place"
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        last = int(len(found) * share)
        if folder.exists():
            put_back(tmp_path / "inputs", folder)
        else:
            write_suite(folder, tiny_folder, variants=SHARING)
            copied(folder, tmp_path / "inputs")

        def die(point: Point, last: int = last) -> None:
            if point.number == last:
                raise Killed(point.what)

        points = Points(die, folder)
        with pytest.MonkeyPatch.context() as patch, points.watched(patch), pytest.raises(Killed):
            small_run(folder)
        record, _ = small_run(folder)
        assert record.exit_code == 0
        assert numbers(record) == expected


def test_a_disk_that_is_full_at_a_commit_loses_nothing(watched):
    """The kernel itself refuses to let SQLite's log grow, in the middle of the commit."""
    folder, images, found, expected = watched
    commits = [point.number for point in found if point.what == "before commit"]
    assert len(commits) >= 8
    free = resource.getrlimit(resource.RLIMIT_FSIZE)
    for last in (commits[1], commits[len(commits) // 2], commits[-1]):
        put_back(images / "kill-1", folder)

        def fill(point: Point, last: int = last) -> None:
            if point.number == last:
                size = (folder / "runs.db-wal").stat().st_size
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, free[1]))

        try:
            with (
                pytest.MonkeyPatch.context() as patch,
                Points(fill, folder).watched(patch),
                pytest.raises(StoreError, match=r"runs\.db: .*disk.* run the same command again"),
            ):
                small_run(folder)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, free)
        goes_on(folder, expected)


# ----------------------------------------------------------------------------- cold, and broken


@pytest.fixture
def place(watched, tmp_path, tiny_folder):
    """A folder of its own with the suite, and nothing computed."""
    write_suite(tmp_path / "place", tiny_folder, variants=SHARING)
    return tmp_path / "place"


def adapter_of(folder: Path) -> Path:
    (adapter,) = (e for e in (folder / "cache" / "adapters").iterdir() if e.is_dir())
    return adapter / "adapter_model.safetensors"


def test_two_runs_with_cold_caches_are_the_same_bits(watched, place):
    folder, images, found, expected = watched
    put_back(images / f"kill-{found[-1].number}", folder)
    record, jobs = small_run(place)
    assert set(jobs.values()) == {"done"}
    assert numbers(record) == expected
    assert adapter_of(place).read_bytes() == adapter_of(folder).read_bytes()


@pytest.mark.parametrize("kind", ["adapters", "quantized"])
def test_a_flipped_bit_in_the_cache_is_noticed(watched, kind):
    """A length that fits, and tensors that are finite: only a digest tells."""
    folder, images, found, expected = watched
    put_back(images / f"kill-{found[-1].number}", folder)
    (file,) = (folder / "cache" / kind).glob("*/*.safetensors")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    (folder / "runs.db").unlink()
    record, jobs = small_run(folder)
    assert jobs["train tuned"] == ("done" if kind == "adapters" else "reused")
    assert numbers(record) == expected


def test_a_killed_training_goes_on_from_its_last_whole_checkpoint(place, tiny_folder, monkeypatch):
    """A kill while a checkpoint is written leaves a part of it, which is not gone on from."""
    write_suite(place, tiny_folder, training=", save_steps: 1")
    whole, _ = small_run(place)
    adapter = adapter_of(place).read_bytes()
    write_suite(place.with_name("killed"), tiny_folder, training=", save_steps: 1")
    place = place.with_name("killed")
    from transformers import Trainer

    real = Trainer._save_optimizer_and_scheduler

    def die(trainer, folder):
        if folder.endswith("checkpoint-2"):
            raise Killed("while checkpoint 2 is written")
        real(trainer, folder)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save_optimizer_and_scheduler", die)
        with pytest.raises(Killed):
            small_run(place)
    (checkpoints,) = (place / "cache" / "adapters").glob("*.checkpoints")
    assert {entry.name for entry in checkpoints.glob("c*")} == {"checkpoint-1", "checkpoint-2"}
    record, _ = small_run(place)
    assert [step for step, _ in record.adapters[0].facts["losses"]] == [2]
    assert adapter_of(place).read_bytes() == adapter
    assert numbers(record) == numbers(whole)
    assert not checkpoints.exists()


def test_more_tokens_to_show_are_got_and_fewer_cost_nothing(place):
    def asked(count):
        suite = place / "suite.yaml"
        text = suite.read_text().split(", token_losses")[0].split("max_length: 64")[0]
        rest = "  footprint: false\n  reload_check: false\n"
        suite.write_text(f"{text}max_length: 64, token_losses: {count}}}\n{rest}")
        record, jobs = small_run(place, only=("nf4",))
        score = record.variants[0].scores["perplexity"]
        return jobs["score nf4"], len(score.token_losses), score.sums.tobytes()

    first = asked(2)
    assert first[:2] == ("done", 2)
    assert asked(4) == ("done", 4, first[2])
    assert asked(1) == ("reused", 4, first[2])
    assert asked(1000) == ("done", 6, first[2])
    assert asked(64) == ("reused", 6, first[2])


# ----------------------------------------------------------------------------- real processes

PARENT = """
import gc, os, signal, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import bitsandbytes, peft, pytest, trl
from crashes import Points
from small_run import small_run
from evalkit.executors import performing
from evalkit.weights import training, steps
gc.collect()
gc.freeze()
folder = Path(sys.argv[2])

def forked(perform):
    # Nothing was computed in this process yet, so that no thread is lost by forking.
    process = os.fork()
    if process:
        return process
    try:
        perform()
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
    os._exit(0)

def dying_at(last):
    def die(point):
        if point.number == last:
            os.kill(os.getpid(), signal.SIGKILL)
    with pytest.MonkeyPatch.context() as patch, Points(die, folder).watched(patch):
        small_run(folder)
"""
KILLS = """
for last in map(int, sys.argv[3:]):
    status = os.waitpid(forked(lambda: dying_at(last)), 0)[1]
    print(os.waitstatus_to_exitcode(status))
"""
AT_ONCE = """
children = [forked(lambda: small_run(folder)) for _ in range(int(sys.argv[3]))]
for child in children:
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def exit_codes(code: str, *arguments: object) -> list[int]:
    """Of the processes that a process of its own starts, which imports torch once for all."""
    shared = Path(__file__).parent / "shared"
    command = [sys.executable, "-c", PARENT + code, str(shared), *map(str, arguments)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stderr
    assert "Traceback" not in answer.stderr, answer.stderr
    return [int(line) for line in answer.stdout.split()]


def test_five_kills_in_a_row_of_real_processes(watched):
    """Each goes on where the last one died; the sixth run is the first that ends."""
    folder, images, _, expected = watched
    put_back(images / "kill-1", folder)
    assert exit_codes(KILLS, folder, 8, 12, 16, 20, 12) == [-signal.SIGKILL] * 5
    goes_on(folder, expected)


def test_eight_runs_at_once_train_once_and_lose_nothing(watched, tmp_path, tiny_folder):
    """On one store and one cache, both new."""
    _, _, _, expected = watched
    folder = tmp_path / "place"
    write_suite(folder, tiny_folder, variants=SHARING)
    assert exit_codes(AT_ONCE, folder, 8) == [0] * 8
    with Store.open(str(folder / "runs.db")) as store:
        runs = [store.load_run(summary.id) for summary in store.list_runs()]
    assert len(runs) == 8
    assert {run.exit_code for run in runs} == {0}
    assert all(numbers(run) == expected for run in runs)
    statuses = [job.status for run in runs for job in run.adapters]
    assert sorted(statuses) == ["done", *["reused"] * 7]
    leftovers = [entry.name for entry in (folder / "cache").rglob(".*")]
    assert leftovers == []
