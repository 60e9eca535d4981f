"""`evalkit init`: what it writes is right, and nothing of anybody's is lost."""

import io

import pytest
from ruamel.yaml import YAML

from evalkit.cli import run_command_line
from evalkit.suite import load_suite

pytestmark = pytest.mark.system

OFFICIAL = {
    "actions/checkout", "actions/setup-python", "actions/cache/restore", "actions/cache/save",
    "actions/upload-artifact",
}  # fmt: skip


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def workflow(place):
    text = (place / ".github" / "workflows" / "evalkit.yml").read_text(encoding="utf-8")
    return YAML(typ="safe", pure=True).load(io.StringIO(text))


def test_the_suite_loads(place, capsys):
    assert run_command_line(["init"]) == 0
    suite = load_suite(place / "suites" / "starter.yaml")
    assert suite.name == "starter"
    assert suite.gates
    assert not (place / ".github").exists()
    assert "evalkit run suites/starter.yaml" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["chat", "null", "1.0", "on", "a-b_c.d"])
def test_any_name_that_a_suite_may_have(place, name):
    assert run_command_line(["init", "new/folder", "--name", name, "--ci", "github"]) == 0
    assert load_suite(place / "new" / "folder" / "suites" / f"{name}.yaml").name == name
    told = workflow(place / "new" / "folder")
    assert told["env"]["EVALKIT_SUITE"] == f"suites/{name}.yaml"


@pytest.mark.parametrize("name", ["", "../up", "a/b", "-x", ".hidden", "a b", "a\nb", "${{x}}"])
def test_a_name_that_is_no_files_is_refused(place, name, capsys):
    assert run_command_line(["init", f"--name={name}"]) == 2
    assert "cannot name a suite" in capsys.readouterr().err
    assert list(place.iterdir()) == []


def test_the_workflow_runs_the_suite_keeps_the_store_and_uploads(place):
    assert run_command_line(["init", "--ci", "github"]) == 0
    told = workflow(place)
    assert set(told["on"]) == {"pull_request", "push", "workflow_dispatch"}
    assert told["permissions"] == {"contents": "read"}
    steps = told["jobs"]["evalkit"]["steps"]
    used = [step["uses"].split("@") for step in steps if "uses" in step]
    assert {name for name, _ in used} == OFFICIAL
    assert all(version.startswith("v") and version[1:].isdigit() for _, version in used)
    (run,) = [step["run"] for step in steps if "evalkit run" in step.get("run", "")]
    assert "--junit" in run
    assert "--markdown" in run
    # A run that fails is the one whose scores are wanted the next time.
    kept = [step for step in steps if "cache/save" in step.get("uses", "")]
    kept += [step for step in steps if "upload-artifact" in step.get("uses", "")]
    assert [step["if"] for step in kept] == ["${{ !cancelled() }}"] * 2
    assert told["env"]["EVALKIT_INSTALL"] == "pip install evalkit-lm"


def test_every_script_of_the_workflow_stops_at_an_error_and_takes_no_expression(place):
    assert run_command_line(["init", "--ci", "github"]) == 0
    scripts = [s["run"] for s in workflow(place)["jobs"]["evalkit"]["steps"] if "run" in s]
    assert scripts
    for script in scripts:
        assert script.startswith("set -euo pipefail\n")
        assert "${{" not in script


def test_nothing_is_overwritten_without_force(place, capsys):
    (place / "suites").mkdir()
    (place / "suites" / "starter.yaml").write_text("mine")
    assert run_command_line(["init", "--ci", "github"]) == 2
    told = capsys.readouterr().err
    assert "suites/starter.yaml: there already" in told
    assert "--force" in told
    assert (place / "suites" / "starter.yaml").read_text() == "mine"
    assert not (place / ".github").exists()
    assert run_command_line(["init", "--ci", "github", "--force"]) == 0
    assert load_suite(place / "suites" / "starter.yaml").name == "starter"


def test_a_second_suite_beside_the_first(place):
    assert run_command_line(["init"]) == 0
    assert run_command_line(["init", "--name", "second"]) == 0
    assert len(list((place / "suites").iterdir())) == 2


def test_a_folder_that_is_a_file_and_a_system_that_is_unknown(place, capsys):
    (place / "file").write_text("mine")
    assert run_command_line(["init", "file"]) == 2
    assert "file: is not a folder" in capsys.readouterr().err
    assert run_command_line(["init", "--ci", "jenkins"]) == 2
    assert "github" in capsys.readouterr().err
