"""The composite action at the root: its YAML, and its scripts with a made-up evalkit."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from ruamel.yaml import YAML

pytestmark = pytest.mark.system

ROOT = Path(__file__).parents[2]
OFFICIAL = {
    "actions/setup-python", "actions/cache/restore", "actions/cache/save",
    "actions/upload-artifact",
}  # fmt: skip


@pytest.fixture(scope="module")
def action():
    return YAML(typ="safe", pure=True).load(ROOT / "action.yml")


@pytest.fixture
def scripts(action):
    return {step["name"]: step for step in action["runs"]["steps"] if "run" in step}


def test_inputs_and_outputs_are_described(action):
    assert action["runs"]["using"] == "composite"
    assert {"suite", "args", "python-version", "cache", "working-directory"} <= set(
        action["inputs"]
    )
    assert {"exit-code", "report"} <= set(action["outputs"])
    for part in ("inputs", "outputs"):
        assert all(entry["description"].strip() for entry in action[part].values())


def test_only_official_actions_by_major_version(action):
    used = [step["uses"].split("@") for step in action["runs"]["steps"] if "uses" in step]
    assert {name for name, _ in used} == OFFICIAL
    assert all(version.startswith("v") and version[1:].isdigit() for _, version in used)


def test_no_expression_reaches_a_shell(scripts):
    assert len(scripts) == 2
    for step in scripts.values():
        assert step["run"].startswith("set -euo pipefail\n")
        assert "${{" not in step["run"]
        assert step["shell"] == "bash"


def run_step(step, tmp_path, inputs, *, code=0):
    """Runs a step's script as the runner would, with an `evalkit` that notes its arguments."""
    fake = tmp_path / "bin" / "evalkit"
    fake.parent.mkdir(exist_ok=True)
    fake.write_text(
        '#!/usr/bin/env bash\nprintf "%s\\n" "$@" > "$NOTES"\n'
        'while [ "$1" != "--reports" ]; do shift; done\n'
        'mkdir -p "$2/suite/run" && touch "$2/suite/run/index.html"\n'
        f"exit {code}\n"
    )
    fake.chmod(0o755)
    temp = tmp_path / "runner temp"
    temp.mkdir(exist_ok=True)
    environment = {
        "PATH": f"{fake.parent}:{os.environ['PATH']}", "NOTES": str(tmp_path / "notes"),
        "GITHUB_OUTPUT": str(tmp_path / "output"), "RUNNER_TEMP": str(temp),
        "GITHUB_ACTION_PATH": str(ROOT), **inputs,
    }  # fmt: skip
    answer = subprocess.run(
        [shutil.which("bash") or "bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step],
        env=environment, capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    output = tmp_path / "output"
    told = dict(line.split("=", 1) for line in output.read_text().splitlines())
    notes = tmp_path / "notes"
    return answer, told, notes.read_text().splitlines() if notes.exists() else []


@pytest.mark.parametrize("code", [0, 1, 3])
def test_the_exit_code_and_the_report_are_outputs_and_the_step_ends_so(scripts, tmp_path, code):
    inputs = {"EVALKIT_SUITE": "suites/a.yaml", "EVALKIT_ARGS": ""}
    answer, told, given = run_step(scripts["Run the suite"]["run"], tmp_path, inputs, code=code)
    assert answer.returncode == code, answer.stderr
    assert told["exit-code"] == str(code)
    assert Path(told["report"]).is_file()
    assert Path(told["report"]).is_relative_to(told["folder"])
    assert given[0] == "run"
    assert given[-2:] == ["--", "suites/a.yaml"]


def test_arguments_are_split_and_nothing_in_them_is_run(scripts, tmp_path):
    inputs = {
        "EVALKIT_SUITE": "$(touch injected); `touch injected` x.yaml",
        "EVALKIT_ARGS": "--set data.test=a.jsonl\n--force $(touch injected) *;touch injected\n",
    }
    answer, _, given = run_step(scripts["Run the suite"]["run"], tmp_path, inputs)
    assert answer.returncode == 0, answer.stderr
    assert not (tmp_path / "injected").exists()
    assert given[-1] == inputs["EVALKIT_SUITE"]
    assert given[9:-2] == [
        "--set", "data.test=a.jsonl", "--force", "$(touch", "injected)", "*;touch", "injected",
    ]  # fmt: skip


def test_a_run_that_never_began_has_no_report(scripts, tmp_path):
    script = scripts["Run the suite"]["run"].replace("evalkit run", "false run")
    inputs = {"EVALKIT_SUITE": "suites/a.yaml", "EVALKIT_ARGS": ""}
    answer, told, _ = run_step(script, tmp_path, inputs)
    assert answer.returncode == 1
    assert (told["exit-code"], told["report"]) == ("1", "")


def test_an_installation_that_fails_ends_the_step(scripts, tmp_path):
    (tmp_path / "output").write_text("")
    install = scripts["Install evalkit"]["run"]
    answer, _, _ = run_step(install, tmp_path, {"EVALKIT_INSTALL": "false\ntouch reached"})
    assert answer.returncode != 0
    assert not (tmp_path / "reached").exists()
    answer, _, _ = run_step(install, tmp_path, {"EVALKIT_INSTALL": "true\ntouch reached"})
    assert answer.returncode == 0
    assert (tmp_path / "reached").exists()
