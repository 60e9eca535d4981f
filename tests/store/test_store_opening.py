"""Opening: new, existing, by several processes at once, and everything that can be wrong."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from evalkit.errors import MissingPackageError, StoreError
from evalkit.records import JobRecord
from evalkit.store import Store, VariantResult
from evalkit.store.engines import display
from evalkit.store.failures import masked
from evalkit.store.opening import database_url

pytestmark = pytest.mark.system

PROJECT = Path(__file__).resolve().parents[2]
PROCESSES = 5

RUN = {
    "suite": "s",
    "place": "s.yaml",
    "suite_text": "",
    "suite_json": {},
    "arguments": {},
    "provenance": {},
}


def start(store: Store, provenance: str = "") -> str:
    return store.start_run(**{**RUN, "provenance": {"note": provenance}})  # type: ignore[arg-type]


def python(script: str, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def test_a_store_is_made_with_its_folders_and_settings(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b" / "runs.db"
    with Store.open(str(file)) as store:
        run_id = start(store)
        assert store.place == str(file)
        with store._reading() as session:
            settings = {
                name: session.execute(sa.text(f"PRAGMA {name}")).scalar()
                for name in ("foreign_keys", "journal_mode", "synchronous")
            }
    assert settings == {"foreign_keys": 1, "journal_mode": "wal", "synchronous": 2}
    with Store.open(f"sqlite:///{file}", create=False) as store:
        assert store.load_run().id == run_id


def test_the_default_store_lies_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Store.open().close()
    assert (tmp_path / ".evalkit" / "evalkit.db").is_file()


def test_processes_that_open_and_fill_a_fresh_database_at_once(fresh: str, tmp_path: Path) -> None:
    """Each writes units that all share, each in an order of its own: locks by row would cross."""
    script = """
        import sys, time
        from pathlib import Path
        import numpy as np
        from evalkit.records import JobRecord, Score
        from evalkit.store import Store, VariantResult

        folder, number, place = Path(sys.argv[1]), sys.argv[2], sys.argv[3]

        def score(metric):
            ids = (metric, "b")
            return Score(metric, "mean", 1.0, None, "", True, ids, ids, np.ones(2), np.ones(2))

        metrics = [f"m{n}" for n in range(6)]
        metrics = metrics if int(number) % 2 else metrics[::-1]
        (folder / f"ready-{number}").touch()
        while not (folder / "go").exists():
            time.sleep(0.001)
        with Store.open(place) as store:
            run = store.start_run(
                suite=number, place="", suite_text="", suite_json={}, arguments={}, provenance={}
            )
            for name in "abc":
                job = JobRecord(f"score {name}", "score", "done", 0.0)
                scores = {m: (f"{number} {name} {m}", score(m)) for m in metrics}
                store.record_variant(run, VariantResult(name, (), None, "", job, scores))
        print(run)
    """
    running = [python(script, str(tmp_path), str(number), fresh) for number in range(PROCESSES)]
    while len(list(tmp_path.glob("ready-*"))) < PROCESSES:
        for process in running:
            if process.poll() is not None:
                finish(process)
        time.sleep(0.01)
    (tmp_path / "go").touch()
    runs = {finish(process).strip() for process in running}
    assert len(runs) == PROCESSES
    with Store.open(fresh, create=False) as store:
        assert {summary.id for summary in store.list_runs(100)} == runs
        assert {summary.scored for summary in store.list_runs(100)} == {3}


def test_an_existing_store_opens_without_alembic_or_torch(tmp_path: Path) -> None:
    file = str(tmp_path / "runs.db")
    script = """
        import sys
        from evalkit.store import Store
        with Store.open(sys.argv[1]) as store:
            store.list_runs()
        print(sorted({"alembic", "torch", "transformers", "pandas"} & sys.modules.keys()))
    """
    assert finish(python(script, file)).strip() == "['alembic']", "a fresh one is migrated"
    assert finish(python(script, file)).strip() == "[]"


def test_opening_writes_nothing_to_a_store_that_is_up_to_date(tmp_path: Path) -> None:
    file = tmp_path / "runs.db"
    Store.open(str(file)).close()
    before = file.read_bytes()
    Store.open(str(file)).close()
    assert file.read_bytes() == before


@pytest.mark.parametrize("ending", ["", "sys.exit(main(['runs', '--db', place]))"])
def test_a_process_that_ends_leaves_one_file(tmp_path: Path, ending: str) -> None:
    """Whoever copies the database alone has all of it, though nobody closed it."""
    script = f"""
        import gc, sys
        from evalkit.cli import run_command_line as main
        from evalkit.store import Store
        place = sys.argv[1]
        store = Store.open(place)
        store.start_run(**{RUN!r}, gates=[])
        gc.freeze()  # as a command ends
        {ending}
        """
    finish(python(script, str(tmp_path / "runs.db")))
    assert [entry.name for entry in tmp_path.iterdir()] == ["runs.db"]
    with Store.open(str(tmp_path / "runs.db")) as store:
        assert [run.suite for run in store.list_runs()] == ["s"]


def test_a_store_that_must_exist_and_does_not(tmp_path: Path) -> None:
    file = tmp_path / "none" / "runs.db"
    with pytest.raises(StoreError, match="there is no store yet; `evalkit run"):
        Store.open(str(file), create=False)
    assert not file.parent.exists()


def test_a_database_of_another_program(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE runs (run_uuid TEXT)")
    before = file.read_bytes()
    with pytest.raises(StoreError, match=r"not evalkit's \(it holds runs\)"):
        Store.open(str(file))
    assert file.read_bytes() == before


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"the folder .*file/sub cannot be made .*--db"):
        Store.open(str(tmp_path / "file" / "sub" / "runs.db"))
    with pytest.raises(StoreError, match=r"the folder .*file cannot be made .*--db"):
        Store.open(str(tmp_path / "file" / "runs.db"))


def test_a_folder_in_place_of_the_database(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot be opened: its folder must exist .*--db"):
        Store.open(str(tmp_path))


def test_a_database_that_may_only_be_read(tmp_path: Path) -> None:
    # Permissions do not stop root, so SQLite itself is told to refuse.
    with Store.open(str(tmp_path / "runs.db")) as store:
        run_id = start(store)
        store._engine.dispose()
        sa.event.listen(
            store._engine, "connect", lambda raw, _: raw.execute("PRAGMA query_only=ON")
        )
        with pytest.raises(StoreError, match=r"read-only.*--db"):
            start(store)
        assert store.load_run().id == run_id


def test_a_lock_that_another_process_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "runs.db"
    Store.open(str(file)).close()
    monkeypatch.setattr("evalkit.store.engines.BUSY_SECONDS", 0.05)
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with Store.open(str(file)) as store:
        assert store.list_runs() == (), "readers do not wait for writers"
        with pytest.raises(StoreError, match="another process kept the database locked"):
            start(store)
        other.execute("ROLLBACK")
        start(store)
    other.close()


def record_for_ever(store: Store, run_id: str, recorded: list[str]) -> None:
    while True:
        name = str(len(recorded))
        job = JobRecord(f"score {name}", "score", "failed", 0.0, error="x" * 10_000)
        store.record_variant(run_id, VariantResult(name, (), None, "", job))
        recorded.append(name)


def fill(store: Store) -> str:
    """Records until the disk is full, and checks that all of it is there; the run's id."""
    run_id = start(store)
    recorded: list[str] = []
    with pytest.raises(StoreError, match="no space is left for the database"):
        record_for_ever(store, run_id, recorded)
    assert len(recorded) > 3
    assert [variant.name for variant in store.load_run(run_id).variants] == recorded
    return run_id


def test_a_database_that_may_not_grow(tmp_path: Path) -> None:
    with Store.open(str(tmp_path / "runs.db")) as store:
        store._engine.dispose()

        @sa.event.listens_for(store._engine, "connect")
        def _limit(raw: sqlite3.Connection, _: object) -> None:
            raw.execute("PRAGMA max_page_count=120")

        fill(store)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        made = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        made = False
    if not made:
        pytest.skip("mounting a small tmpfs needs root and the right to mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_keeps_what_was_recorded(tiny_disk: Path) -> None:
    file = tiny_disk / "runs.db"
    ballast = tiny_disk / "ballast"
    ballast.write_bytes(b"\0" * 200_000)
    with Store.open(str(file)) as store:
        run_id = fill(store)
        ballast.unlink()
        store.finish_run(run_id, seconds=1.0, exit_code=3)
        assert store.load_run(run_id).exit_code == 3


def test_a_disk_that_is_full_from_the_start(tiny_disk: Path) -> None:
    (tiny_disk / "ballast").write_bytes(b"\0" * (2**20 - 16_384))
    with pytest.raises(StoreError, match=r"no space is left|disk reported an error"):
        Store.open(str(tiny_disk / "runs.db"))
    (tiny_disk / "ballast").unlink()
    with Store.open(str(tiny_disk / "runs.db")) as store:
        start(store)


def test_a_store_in_memory_is_refused() -> None:
    for place in ("sqlite://", "sqlite:///:memory:", ":memory:"):
        with pytest.raises(StoreError, match="would keep nothing; name a file"):
            Store.open(place)


def test_what_is_no_url() -> None:
    with pytest.raises(StoreError, match="a path, or a URL: sqlite:///") as caught:
        Store.open("post gres://me:hunter2@host/db")
    assert "hunter2" not in str(caught.value)
    for kind in ("nosuchdb", "mysql", "postgres", "postgresql+psycopg2"):
        with pytest.raises(StoreError, match=rf"no store in '{re.escape(kind)}' .allowed: a path"):
            Store.open(f"{kind}://host/db")


def test_a_missing_driver_names_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingPackageError) as caught:
        Store.open("postgresql+psycopg://me:hunter2@localhost/runs?password=hunter2")
    assert "pip install 'evalkit-lm[postgresql]'" in str(caught.value)
    assert caught.value.exit_code == 4
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("place", "shown"),
    [
        ("postgresql://me:hunter2@host:5432/runs", "postgresql://***:***@host:5432/runs"),
        ("postgresql://me:p/w@x@host/runs", "postgresql://***:***@host/runs"),
        ("postgresql://me:p w@host/runs", "postgresql://***:***@host/runs"),
        ("postgresql://me@corp:pw@host/runs", "postgresql://***:***@host/runs"),
        (
            "postgresql://host/r?user=me&password=hunter2&a=1",
            "postgresql://host/r?user=me&password=***&a=1",
        ),
        ("postgresql://host/r?sslpassword=hunter2", "postgresql://host/r?sslpassword=***"),
        ("runs/evalkit.db", "runs/evalkit.db"),
    ],
)
def test_credentials_are_masked(place: str, shown: str) -> None:
    assert masked(place) == shown


def test_the_place_of_a_server_hides_its_password() -> None:
    url = database_url("postgresql+psycopg://me:hunter2@localhost/runs")
    assert "hunter2" not in display(url)
    assert "localhost/runs" in display(url)
