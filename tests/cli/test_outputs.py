"""Files and GitHub's pages: written from a run and from the store, checked before anything runs."""

import json
import os
import stat
from types import SimpleNamespace
from xml.etree import ElementTree as ET

import pytest

from evalkit.cli import run_command_line
from evalkit.cli.outputs import SUMMARY_LIMIT

pytestmark = pytest.mark.system

SUITE = """\
name: outputs
model: {model}
data: {{test: test.jsonl}}
variants: [fp16, nf4]
metrics:
  perplexity: {{on: test, max_length: 64}}
gates:
  - {{metric: perplexity, variant: nf4, against: fp16, max_increase: 900%}}
  - {{metric: perplexity, variant: nf4, max: 1}}
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory, tiny_folder):
    """One real run inside of what GitHub Actions looks like, with every output."""
    root = tmp_path_factory.mktemp("checkout")
    folder = root / "models"
    folder.mkdir()
    rows = [{"text": f"The words of document {n} are scored one by one."} for n in range(30)]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "suite.yaml").write_text(SUITE.format(model=tiny_folder))
    summary = root / "summary.md"
    summary.write_text("# What another step wrote\n")
    names = {
        "EVALKIT_CACHE": root / "cache", "EVALKIT_DB": root / "runs.db", "COLUMNS": "100",
        "GITHUB_ACTIONS": "true", "GITHUB_WORKSPACE": root, "GITHUB_STEP_SUMMARY": summary,
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, value in names.items():
            patch.setenv(name, str(value))
        code = run_command_line(
            ["run", "suite.yaml", "--junit", "out/junit.xml", "--markdown", "out/summary.md",
             "--json", "out/run.json"]
        )  # fmt: skip
    return SimpleNamespace(folder=folder, root=root, code=code, database=str(root / "runs.db"))


@pytest.fixture
def place(ran, tmp_path, monkeypatch):
    """A folder of its own, outside of GitHub, with the store of that run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVALKIT_DB", ran.database)
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY", "GITHUB_WORKSPACE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_a_run_writes_every_output(ran):
    assert ran.code == 1
    out = ran.folder / "out"
    told = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert [verdict["ok"] for verdict in told["verdicts"]] == [True, False]
    suite = ET.parse(out / "junit.xml").getroot().find("testsuite")
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    text = (out / "summary.md").read_text(encoding="utf-8")
    assert text.startswith("## ❌ outputs: not ready")


def test_the_step_summary_is_added_to(ran):
    text = (ran.root / "summary.md").read_text(encoding="utf-8")
    assert text.startswith("# What another step wrote\n## ❌ outputs: not ready")


def test_judging_again_annotates_the_suites_line(ran, place, monkeypatch, capsys):
    monkeypatch.chdir(ran.folder)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(ran.root))
    assert run_command_line(["gate"]) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("::")]
    assert line.startswith("::error file=models/suite.yaml,line=9,title=REGRESSED%3A nf4")


def test_nothing_is_told_to_github_elsewhere(place, capsys):
    assert run_command_line(["gate"]) == 1
    assert "::error" not in capsys.readouterr().out


def test_a_stored_run_gives_the_same_files(ran, place):
    arguments = ["--junit", "junit.xml", "--markdown", "summary.md", "--json", "run.json"]
    assert run_command_line(["report", *arguments]) == 0
    for name in ("junit.xml", "summary.md", "run.json"):
        assert (place / name).read_text() == (ran.folder / "out" / name).read_text(), name
    assert run_command_line(["gate", "latest", "--junit", "again/junit.xml"]) == 1
    assert (place / "again" / "junit.xml").is_file()


def test_reporting_again_does_not_add_to_the_summary(place, monkeypatch):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(place / "summary"))
    assert run_command_line(["report"]) == 0
    assert not (place / "summary").exists()


def test_standard_output_holds_the_file_alone(place, capsys):
    assert run_command_line(["report", "--markdown", "-"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("## ❌ outputs")
    assert "variant" in captured.err
    assert run_command_line(["report", "--junit", "-"]) == 0
    assert ET.fromstring(capsys.readouterr().out.encode()).tag == "testsuites"


def test_the_schema_needs_no_store(place, monkeypatch, capsys):
    monkeypatch.setenv("EVALKIT_DB", str(place / "nowhere.db"))
    assert run_command_line(["report", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out)["$id"] == "urn:evalkit:run:1"


# ------------------------------------------------------------------------- before the run


def refused(capsys, *arguments):
    """The message of a run that must not begin: its suite is not even there."""
    assert run_command_line(["run", "no-such-suite.yaml", *arguments]) == 2
    return capsys.readouterr().err


def test_a_path_below_a_file_is_refused_before_the_run(place, capsys):
    (place / "file").write_text("kept")
    assert "--junit file/junit.xml: cannot be written" in refused(
        capsys, "--junit", "file/junit.xml"
    )
    assert "--reports file/pages: " in refused(capsys, "--reports", "file/pages")
    assert (place / "file").read_text() == "kept"


def test_a_folder_is_no_file(place, capsys):
    (place / "folder").mkdir()
    assert "--json folder: is a folder" in refused(capsys, "--json", "folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(place, capsys):
    (place / "closed").mkdir()
    (place / "closed").chmod(stat.S_IRUSR | stat.S_IXUSR)
    told = refused(capsys, "--markdown", "closed/summary.md")
    assert "--markdown closed/summary.md: cannot be written: Permission denied" in told
    assert "--reports closed" in refused(capsys, "--reports", "closed")


def test_two_outputs_of_one_name(place, capsys):
    same = refused(capsys, "--json", "out", "--junit", "./out")
    assert "--json and --junit name the same place" in same
    assert "--junit and --markdown name" in refused(capsys, "--junit", "-", "--markdown", "-")


def test_checking_leaves_files_as_they_are(place, capsys):
    (place / "old.json").write_text("kept")
    assert "no-such-suite" in refused(capsys, "--json", "old.json", "--junit", "new/junit.xml")
    assert (place / "old.json").read_text() == "kept"
    assert not (place / "new" / "junit.xml").exists()


# ------------------------------------------------------------------------- after the run


def test_an_output_that_fails_at_the_end_keeps_the_others(place, capsys, monkeypatch):
    from pathlib import Path

    real = Path.write_text

    def full(self, *arguments, **options):
        if self.name == "junit.xml":
            raise OSError(28, "No space left on device")
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", full)
    assert run_command_line(["report", "--junit", "junit.xml", "--markdown", "summary.md"]) == 3
    told = capsys.readouterr().err
    assert "--junit junit.xml: cannot be written: No space left on device" in told
    assert "evalkit report 2" in told
    assert (place / "summary.md").is_file()
    assert list((place / "reports").glob("outputs/*/index.html"))


def test_a_summary_that_is_full_or_missing_fails_nothing(place, capsys, monkeypatch):
    full = place / "summary"
    full.write_bytes(b"x" * SUMMARY_LIMIT)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(full))
    assert run_command_line(["gate"]) == 1
    assert "$GITHUB_STEP_SUMMARY: it is full" in capsys.readouterr().err
    assert full.stat().st_size == SUMMARY_LIMIT
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(place / "no" / "folder"))
    assert run_command_line(["gate"]) == 1
    assert "note: nothing was added" in capsys.readouterr().err


def test_a_wrong_suite_is_annotated_line_by_line(ran, place, capsys, monkeypatch):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(place))
    (place / "wrong.yaml").write_text(SUITE.format(model="a/b").replace("[fp16", "[fp61"))
    assert run_command_line(["run", "wrong.yaml"]) == 2
    told = capsys.readouterr().err
    assert "::error file=wrong.yaml,line=4,title=variants.0::" in told
