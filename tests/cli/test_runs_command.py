"""`evalkit runs`: the list, and runs on their way to another store."""

from __future__ import annotations

from pathlib import Path

import pytest
from stored_runs import VERDICTS, make_score, result, start

from evalkit.cli import run_command_line
from evalkit.store import Store

pytestmark = pytest.mark.system


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of two runs in `a.db`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EVALKIT_DB", raising=False)
    with Store.open("a.db") as store:
        ids = [start(store), start(store)]
        for run_id in ids:
            store.record_variant(run_id, result(scores={"m": (run_id, make_score("m"))}))
    return ids


def evalkit(*arguments: str) -> int:
    return run_command_line(["runs", *arguments])


def test_runs_go_to_another_store_once(runs, capsys) -> None:
    assert evalkit("export", runs[0], "latest", "two.jsonl.gz", "--db", "a.db") == 0
    assert "Wrote 2 runs: two.jsonl.gz, " in capsys.readouterr().out
    assert evalkit("export", runs[0], "one.jsonl.gz", "--db", "a.db") == 0
    assert f"Wrote run {runs[0]}: one.jsonl.gz, " in capsys.readouterr().out
    assert evalkit("import", "one.jsonl.gz", "--db", "b.db") == 0
    assert capsys.readouterr().out == "one.jsonl.gz: 1 imported.\n"
    assert evalkit("import", "two.jsonl.gz", "--db", "b.db") == 0
    assert capsys.readouterr().out == "two.jsonl.gz: 1 imported, 1 already there.\n"
    assert evalkit("--db", "b.db") == 0
    listed = capsys.readouterr().out
    assert all(listed.count(run_id) == 1 for run_id in runs)


def test_a_run_that_differs(runs, capsys) -> None:
    assert evalkit("export", "--all", "all.jsonl.gz", "--db", "a.db") == 0
    with Store.open("a.db") as store:
        store.record_verdicts(runs[0], VERDICTS)
    assert evalkit("import", "all.jsonl.gz", "--db", "a.db") == 2
    assert f"run {runs[0]} is in the store already and differs" in capsys.readouterr().err
    assert evalkit("import", "all.jsonl.gz", "--db", "a.db", "--replace") == 0
    assert capsys.readouterr().out == "all.jsonl.gz: 1 replaced, 1 already there.\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "x.jsonl.gz", "--db", "a.db"], "name the runs to export, or --all of them"),
        (["export", "latest", "x.jsonl.gz", "--all", "--db", "a.db"], "or --all of them"),
        (["--db", "a.db", "export", "latest", "x.jsonl.gz"], "--db before a command of `evalkit"),
        (["--limit", "3", "import", "x.jsonl.gz"], "--limit before a command of `evalkit runs`"),
        (["import", "nowhere.jsonl.gz", "--db", "new.db"], "nowhere.jsonl.gz: cannot be read"),
    ],
)
def test_what_is_refused(runs, capsys, arguments, message) -> None:
    assert evalkit(*arguments) == 2
    assert message in capsys.readouterr().err
    assert not Path("x.jsonl.gz").exists()
    assert not Path("new.db").exists()
