"""Every bad input through the command line: message, exit code, and nothing run or leaked."""

import importlib.util
import shutil
from pathlib import Path

import pytest
from bad_inputs import EVERY, set_up

from evalkit.cli import run_command_line

DOCS = Path(__file__).parents[1] / "docs"
CASES = [(section, case) for section, cases in EVERY.items() for case in cases]


@pytest.mark.parametrize(
    "case", [case for _, case in CASES], ids=[case.name.replace(" ", "-") for _, case in CASES]
)
def test_it_is_told_and_nothing_worse_happens(case, tmp_path, tiny_folder, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVALKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EVALKIT_DB", str(tmp_path / "runs.db"))
    monkeypatch.setenv("COLUMNS", "4000")
    shutil.copytree(tiny_folder, tmp_path / "model")
    set_up(tmp_path)
    case.prepare(tmp_path)
    inputs = {file for file in tmp_path.rglob("*") if file.is_file()}
    code = run_command_line(list(case.command))
    told = capfd.readouterr()
    said = " ".join((told.out + told.err).split())
    assert (code, case.message in said) == (case.code, True), said
    assert "Traceback" not in said
    assert "unexpected" not in said
    for secret in case.never:
        assert secret not in said
        for file in set(tmp_path.rglob("*")) - inputs:
            assert not file.is_file() or secret.encode() not in file.read_bytes(), file
    for name in case.files_never:
        assert not list(tmp_path.rglob(name)), name


def test_names_are_unique():
    names = [case.name for _, case in CASES]
    assert len(set(names)) == len(names)


def test_the_page_of_bad_inputs_is_current():
    spec = importlib.util.spec_from_file_location("page", DOCS / "generate_bad_inputs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    committed = (DOCS / "bad-inputs.md").read_text(encoding="utf-8")
    assert committed == module.page(), "run: python docs/generate_bad_inputs.py"
