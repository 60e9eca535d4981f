"""Promises of the whole project, each held by a test."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
VERBS = (
    "run", "plan", "runs", "report", "gate", "compare", "baseline", "init", "export", "cache",
    "doctor", "view",
)  # fmt: skip
HEAVY = {"torch", "transformers", "peft", "trl", "bitsandbytes", "datasets", "lm_eval"}


def evalkit(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "evalkit", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1", **environment},
        timeout=120,
    )


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_listed_and_its_help_ends_with_an_example(verb):
    assert re.search(rf"^\W*{verb}\s", evalkit("--help").stdout, re.MULTILINE)
    answer = evalkit(verb, "--help")
    assert answer.returncode == 0, answer.stderr
    assert f"Example: evalkit {verb}" in answer.stdout.strip().splitlines()[-1]


def test_the_verbs_tested_here_are_all_there_are():
    files = {path.stem for path in (ROOT / "evalkit" / "cli").glob("*.py")}
    assert files - {"__init__", "options", "outputs", "progress"} == set(VERBS)


@pytest.mark.parametrize("group", ["", "baseline", "cache", "runs"])
def test_what_each_command_does_is_told_whole_on_80_columns(group):
    told = evalkit(*group.split(), "--help", COLUMNS="80").stdout
    listed = re.findall(r"^  [a-z]+ {2,}\S.*$", told.split("Commands:")[1], re.MULTILINE)
    assert len(listed) == {"": len(VERBS), "baseline": 5, "cache": 2, "runs": 2}[group]
    assert not [line for line in listed if line.endswith("...")]


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_imports_nothing_heavy(verb):
    arguments = [*verb.split(), "--help"]
    unwanted = HEAVY | {"sqlalchemy", "numpy", "pydantic", "rich"}
    code = (
        f"import sys\nfrom evalkit.cli import run_command_line as r\nr({arguments!r})\n"
        f"print('loaded:', *sorted({unwanted!r} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert answer.stdout.strip().splitlines()[-1] == "loaded:", answer.stdout[-300:]


@pytest.mark.parametrize(
    ("arguments", "loaded"),
    [(["compare", "--help"], {"compare"}), (["--debug", "compare", "--help"], set(VERBS))],
)
def test_a_verb_that_comes_first_is_the_only_one_looked_at(arguments, loaded):
    code = (
        f"import sys\nfrom evalkit.cli import run_command_line as r\nr({arguments!r})\n"
        f"print('loaded:', *(v for v in {VERBS!r} if f'evalkit.cli.{{v}}' in sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "Example: evalkit compare" in answer.stdout, answer.stderr
    assert set(answer.stdout.strip().splitlines()[-1].split()[1:]) == loaded


@pytest.mark.parametrize(("given", "expected"), [(None, "4"), ("20", "20")])
def test_openblas_is_told_not_to_spin_before_it_is_imported(given, expected, monkeypatch):
    monkeypatch.delenv("OPENBLAS_THREAD_TIMEOUT", raising=False)
    if given is not None:
        monkeypatch.setenv("OPENBLAS_THREAD_TIMEOUT", given)
    code = (
        "import os, sys; from evalkit import cli\n"
        "def told(arguments):\n"
        "    print('numpy' in sys.modules, os.environ['OPENBLAS_THREAD_TIMEOUT'])\n"
        "cli.run_command_line = told\n"
        "cli.main()"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert answer.stdout.split() == ["False", expected], answer.stderr


def test_torch_and_its_family_are_imported_inside_functions():
    guilty = []
    for path in (ROOT / "evalkit").rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            guilty += [f"{path.name}: {n}" for n in names if n.split(".")[0] in HEAVY]
    assert guilty == []


def test_no_room_has_more_than_300_lines():
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in (ROOT / "evalkit").rglob("*.py")
    }
    assert {name: count for name, count in lengths.items() if count > 300} == {}


def test_every_suite_that_ships_loads():
    from evalkit.suite import load_suite

    found = sorted((ROOT / "suites").glob("*.yaml"))
    assert {path.stem for path in found} >= {"quickstart", "guanaco", "guanaco-smoke", "lora-16bit"}
    for path in found:
        suite = load_suite(path)
        assert suite.variants, path
        assert suite.gates, path


def test_every_public_name_is_there():
    import evalkit

    for name in evalkit.__all__:
        assert getattr(evalkit, name) is not None


def test_every_verb_and_exit_code_is_in_the_readme():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for verb in VERBS:
        assert f"evalkit {verb}" in text, verb
    for code in (0, 1, 2, 3, 4, 130):
        assert re.search(rf"^\| {code} \|", text, re.MULTILINE), code


def test_the_lock_pins_everything_that_the_package_needs():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pinned = {re.split("==", line)[0].lower().replace("_", "-") for line in lock if "==" in line}
    wanted = project["dependencies"] + project["optional-dependencies"]["dev"]
    names = {re.split(r"[><=\[]", item)[0].lower().replace("_", "-") for item in wanted}
    assert {name.replace(".", "-") for name in names} <= {name.replace(".", "-") for name in pinned}
