"""`evalkit report --site` and `evalkit view` as a shell runs them."""

from __future__ import annotations

import http.client
import os
import re
import signal
import subprocess
import sys

import pytest

from evalkit.cli import run_command_line
from evalkit.records import JobRecord
from evalkit.store import Store, VariantResult

pytestmark = pytest.mark.system


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a store of two runs."""
    with Store.open(str(tmp_path / "runs.db")) as store:
        for suite in ("one", "other"):
            run = store.start_run(
                suite=suite,
                place="s.yaml",
                suite_text="",
                suite_json={},
                arguments={},
                provenance={},
            )
            job = JobRecord("score fp16", "score", "failed", 1.0, error="no memory")
            result = VariantResult("fp16", ({"load": "fp16"},), None, "load", job)
            store.record_variant(run, result)
            store.finish_run(run, seconds=1.0, exit_code=3)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVALKIT_DB", str(tmp_path / "runs.db"))
    return tmp_path


def test_the_site_is_written_and_counted(place, capsys):
    assert run_command_line(["report", "--site", "pages"]) == 0
    assert capsys.readouterr().out == "2 suites, 2 runs: 7 files written, 0 unchanged\n"
    assert (place / "pages" / "one" / "compare.html").is_file()
    assert run_command_line(["report", "--site", "pages"]) == 0
    assert capsys.readouterr().out == "2 suites, 2 runs: 0 files written, 7 unchanged\n"


@pytest.mark.parametrize(
    ("extra", "named"),
    [(["latest"], "RUN"), (["--json", "-"], "--json"), (["--junit", "x"], "--junit")],
)
def test_a_run_beside_the_site_is_an_error(place, capsys, extra, named):
    assert run_command_line(["report", *extra, "--site", "pages"]) == 2
    assert f"{named} means one run" in capsys.readouterr().err
    assert not (place / "pages").exists()


def test_a_file_in_the_folders_place_is_an_error(place, capsys):
    (place / "pages").write_text("")
    assert run_command_line(["report", "--site", "pages"]) == 2
    assert "--site pages" in capsys.readouterr().err


def test_a_report_of_one_run_is_as_it_was(place, capsys):
    assert run_command_line(["report"]) == 0
    assert "Report: " in capsys.readouterr().out


def test_without_a_store_nothing_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_command_line(["report", "--site", "pages", "--db", "none.db"]) == 2
    assert "there is no store yet" in capsys.readouterr().err
    assert not (tmp_path / "pages").exists()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "evil.example"])
def test_others_are_let_in_only_when_told(place, capsys, host):
    assert run_command_line(["view", "--host", host]) == 2
    assert "--allow-remote" in capsys.readouterr().err
    assert not (place / "reports").exists()


def test_view_builds_serves_and_ends_with_ctrl_c(place):
    process = subprocess.Popen(
        [sys.executable, "-m", "evalkit", "view", "pages", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        # A shell in the background ignores SIGINT, and its children would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert process.stdout.readline() == "2 suites, 2 runs: 7 files written, 0 unchanged\n"
        line = process.stdout.readline()
        port = int(re.fullmatch(r"Serving pages at http://127\.0\.0\.1:(\d+)/ .*\n", line).group(1))
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", "/")
        answer = connection.getresponse()
        assert answer.status == 200
        assert b"2 suites" in answer.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
        assert "Traceback" not in process.stderr.read()
    finally:
        process.kill()
        process.communicate()
