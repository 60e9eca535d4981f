"""What can be wrong with a store's file: a message that helps, and a file that is untouched."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from stored_runs import make_score, result, start

from evalkit.cli import run_command_line
from evalkit.errors import StoreError
from evalkit.store import Store
from evalkit.store.tables import REVISIONS, VERSION_TABLE

RUNS = 40


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A store of some hundred pages, with nothing beside it."""
    file = tmp_path / "runs.db"
    with Store.open(str(file)) as store:
        for number in range(RUNS):
            run_id = start(store, provenance={"note": "x" * 4000})
            store.record_variant(run_id, result(scores={"m": (f"k{number}", make_score("m"))}))
    return file


def not_a_database(file: Path) -> None:
    file.write_bytes(b"name: guanaco\n")


def zeros(file: Path) -> None:
    file.write_bytes(b"\x00" * 4096)


def a_header_alone(file: Path) -> None:
    file.write_bytes(b"SQLite format 3\x00junk")


def pages_lost(file: Path) -> None:
    """All pages but the first two overwritten, as a bad disk leaves them."""
    content = bytearray(file.read_bytes())
    content[8192:] = b"\xff" * (len(content) - 8192)
    file.write_bytes(content)


def one_page_lost(file: Path) -> None:
    """The first page of the runs, which the first query reads."""
    with sqlite3.connect(file) as connection:
        (page,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'runs'"
        ).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    content = bytearray(file.read_bytes())
    content[(page - 1) * size : page * size] = b"\xa5" * size
    file.write_bytes(content)


def cut_off(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 8192 * 4096])


def a_value_changed(file: Path) -> None:
    """What SQLite itself does not notice: text that is no JSON any more."""
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE runs SET provenance = substr(provenance, 1, 30)")
    connection.close()


def bytes_changed(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE scores SET sums = substr(sums, 1, 11)")
    connection.close()


def newer(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        # As a copy of it may be: not in the journal mode that evalkit sets.
        connection.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
        connection.commit()
        connection.execute("PRAGMA journal_mode=DELETE")
    connection.close()


DAMAGED = r"the database is damaged\. Copy its files .*restore a backup, or .*\.recover.*--db"
NO_DATABASE = r"is no SQLite database, and was left as it is\. Restore a backup of it.*--db"
NEWER = (
    rf"newer evalkit \(schema 9999; this one knows up to {REVISIONS[-1]}\)\. Nothing was changed\. "
    r"Update evalkit: pip install -U evalkit-lm; or .*--db"
)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (not_a_database, NO_DATABASE),
        (zeros, NO_DATABASE),
        (a_header_alone, NO_DATABASE),
        (pages_lost, DAMAGED),
        (one_page_lost, DAMAGED),
        (cut_off, DAMAGED),
        (a_value_changed, f"holds what cannot be read back .JSONDecodeError.: {DAMAGED}"),
        (bytes_changed, f"holds what cannot be read back .ValueError.: {DAMAGED}"),
        (newer, NEWER),
    ],
)
def test_damage_is_explained_and_left_as_it_is(
    file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    message: str,
) -> None:
    damage(file)
    before = file.read_bytes()
    with pytest.raises(StoreError, match=rf"runs\.db: .*{message}") as caught:
        read_all(file)
    assert caught.value.exit_code == 3
    out = str(tmp_path / "runs.jsonl.gz")
    assert run_command_line(["runs", "export", "--all", out, "--db", str(file)]) == 3
    assert f"error: {file}: " in capsys.readouterr().err
    assert file.read_bytes() == before
    assert not Path(out).exists()


def read_all(file: Path) -> None:
    with Store.open(str(file)) as store:
        for summary in store.list_runs(RUNS):
            store.load_run(summary.id)


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A folder with a store in it that nobody may write to, root neither."""
    folder = tmp_path / "read-only"
    folder.mkdir()
    mounted = os.geteuid() == 0
    if mounted and not _mount("-t", "tmpfs", "tmpfs", folder):
        pytest.skip("permissions do not stop root, and mounting needs the right to")
    Store.open(str(folder / "runs.db")).close()
    if mounted:
        assert _mount("-o", "remount,ro", "tmpfs", folder)
    else:
        folder.chmod(0o555)
    yield folder
    if mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)
    else:
        folder.chmod(0o755)


def _mount(*arguments: object) -> bool:
    try:
        made = subprocess.run(["mount", *map(str, arguments)], capture_output=True, check=False)
    except FileNotFoundError:
        return False
    return made.returncode == 0


def test_a_folder_that_may_only_be_read(
    read_only: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = read_only / "runs.db"
    before = file.read_bytes()
    with pytest.raises(StoreError, match=r"folder .*writ.*elsewhere, or name another place"):
        Store.open(str(file))
    with pytest.raises(StoreError, match=r"folder .*(writ|made).*--db"):
        Store.open(str(read_only / "new.db"))
    assert run_command_line(["runs", "--db", str(file)]) == 3
    assert str(file) in capsys.readouterr().err
    assert file.read_bytes() == before
    assert [path.name for path in read_only.iterdir()] == ["runs.db"]
