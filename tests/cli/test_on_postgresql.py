"""Every verb on a store that lies in PostgreSQL, and two runs that write one store at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from postgres import PASSWORD, Server

from evalkit.cli import run_command_line
from evalkit.store import Store

pytestmark = pytest.mark.system

TEXTS = (
    "The model reads the words and the words are scored one by one, and then again from the start.",
    "A quantised weight lies on a grid; an adapter moves it a little, never more than a little.",
)
SUITE = """\
name: {name}
model: {{source: {model}, dtype: fp32}}
data: {{test: test.jsonl}}
variants: [fp16, nf4]
metrics: {{perplexity: {{on: test, max_length: 64}}, footprint: false, reload_check: false}}
gates:
  - {{metric: perplexity, variant: nf4, against: fp16, max_increase: 90%}}
  - {{metric: perplexity, variant: nf4, against: baseline, max_increase: 1%}}
"""


@pytest.fixture
def folder(
    tmp_path: Path, tiny_folder: Path, postgres: Server, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder with two suites, and an empty database in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVALKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EVALKIT_DB", postgres.url(postgres.new_database()))
    monkeypatch.setenv("COLUMNS", "120")
    rows = [{"text": f"{text} Held out {n}."} for n, text in enumerate(TEXTS * 16)]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(SUITE.format(name=name, model=tiny_folder))
    return tmp_path


def told(folder: Path) -> dict[str, object]:
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def test_every_verb_works_on_a_server(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def evalkit(*arguments: str) -> int:
        code = run_command_line(list(arguments))
        shown = capsys.readouterr()
        printed.append(shown.out + shown.err)
        return code

    printed: list[str] = []
    place = os.environ["EVALKIT_DB"]
    assert evalkit("runs") == 2
    assert "holds no store yet" in printed[-1]
    assert evalkit("run", "one.yaml", "--dry-run") == 0
    assert evalkit("run", "one.yaml", "--resume") == 2
    assert "there is no store yet" in printed[-1]
    assert evalkit("runs") == 2, "looking made nothing"
    # Named on the command line, too: what is recorded of it must not hold the password.
    assert evalkit("run", "one.yaml", "--db", place, "--json", "run.json") == 1
    assert evalkit("baseline", "promote", "latest") == 0
    first = told(folder)["run"]
    assert evalkit("run", "one.yaml", "--json", "run.json") == 0
    second = told(folder)["run"]
    with Store.open(place) as store:
        jobs = [variant.job for variant in store.load_run(str(second)).variants]
        assert [job and (job.status, job.reused_from) for job in jobs] == [("reused", first)] * 2
    assert evalkit("compare", f"{first}:fp16", f"{second}:nf4") == 0
    assert evalkit("gate", "latest") == 0
    assert evalkit("report", str(second), "--junit", "junit.xml", "--markdown", "x.md") == 0
    assert evalkit("report", "--site", "pages") == 0
    assert evalkit("report", "--site", "pages") == 0
    assert ": 0 files written" in printed[-1]
    assert evalkit("baseline", "list") == 0
    assert evalkit("runs") == 0
    assert str(first) in printed[-1]

    assert evalkit("runs", "export", "--all", "runs.jsonl.gz") == 0
    assert evalkit("runs", "import", "runs.jsonl.gz", "--db", "file.db") == 0
    assert printed[-1] == "runs.jsonl.gz: 2 imported.\n"
    assert evalkit("runs", "import", "runs.jsonl.gz") == 0
    assert printed[-1] == "runs.jsonl.gz: 2 already there.\n"
    assert evalkit("baseline", "export", "base.json") == 0
    assert evalkit("baseline", "import", "base.json", "--db", "file.db") == 0
    # Of the same scores both kinds of store say the same.
    assert evalkit("gate", "latest", "--json", "server.json") == 0
    assert evalkit("gate", "latest", "--json", "file.json", "--db", "file.db") == 0
    assert (folder / "server.json").read_text() == (folder / "file.json").read_text()

    monkeypatch.delenv("EVALKIT_DB")
    monkeypatch.delenv("EVALKIT_CACHE")
    for path in folder.rglob("*"):
        if path.is_file() and "cache" not in path.parts:
            assert PASSWORD.encode() not in path.read_bytes(), path
            assert b"hunter2" not in path.read_bytes(), path
    assert "hunter2" not in "".join(printed)


def test_two_runs_write_one_fresh_store_at_once(folder: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", "evalkit", "run", "one.yaml", "--bootstrap"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
    ) as other:  # fmt: skip
        while other.poll() is None:
            assert run_command_line(["run", "two.yaml", "--bootstrap", "--force"]) == 0
        assert other.stdout is not None
        assert other.returncode == 0, other.stdout.read()
    with Store.open(os.environ["EVALKIT_DB"], create=False) as store:
        runs = store.list_runs(1000)
        assert {run.suite for run in runs} == {"one", "two"}
        for run in runs:
            assert (run.scored, run.exit_code) == (2, 0)
            assert store.find_baseline(run.suite, "main") is not None
