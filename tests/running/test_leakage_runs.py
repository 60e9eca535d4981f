"""Leakage through the command line: warned of, refused, left out, and in no key."""

import json
import shutil
from pathlib import Path

import pytest
from small_run import write_suite

from evalkit.cli import run_command_line

SUBJECTS = ("grids", "scales", "codes", "adapters", "merges", "losses")
PLAIN = [
    f"Sentence {number} speaks of {subject} and of nothing else, for {number} whole days."
    for number, subject in enumerate(SUBJECTS)
]


@pytest.fixture
def workplace(tmp_path, tiny_folder, monkeypatch):
    """A suite that trains on `data.jsonl` and scores `held.jsonl`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVALKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EVALKIT_DB", str(tmp_path / "runs.db"))
    monkeypatch.setenv("COLUMNS", "4000")
    suite = write_suite(tmp_path, tiny_folder)
    text = suite.read_text()
    text = text.replace("data: {texts: ", "data: {held: held.jsonl, texts: ")
    suite.write_text(text.replace("{on: texts, max_length", "{on: held, max_length"))
    hold(PLAIN)
    return tmp_path


def hold(texts):
    Path("held.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def trained_on():
    return [json.loads(line)["text"] for line in Path("data.jsonl").read_text().splitlines()]


def run(capfd, *arguments):
    code = run_command_line(["run", "suite.yaml", "--json", "result.json", *arguments])
    told = capfd.readouterr()
    return code, " ".join((told.out + told.err).split())


def result():
    return json.loads(Path("result.json").read_text())


def checks(variant):
    return {one["check"]: one for one in result()["variants"][variant]["checks"]}


def test_it_is_warned_of_everywhere_and_moves_no_number(workplace, capfd):
    hold([*PLAIN, trained_on()[0].upper()])
    code, told = run(capfd)
    assert code == 0, told
    sentence = "1 of 7 documents of held is also in the training data texts (1 exactly, 0 nearly)"
    assert f"Leakage: {sentence}" in told
    (page,) = workplace.glob("reports/small/*/index.html")
    assert sentence in page.read_text(encoding="utf-8")
    found = checks("nf4+adapter")["leakage"]
    assert not found["ok"]
    assert sentence in found["message"]
    assert "leakage" not in checks("nf4")
    # What is kept of it does not move a key: nothing is computed again without it.
    shutil.rmtree(workplace / "cache" / "leakage")
    code, told = run(capfd, "--set", "metrics.leakage=ignore")
    assert code == 0, told
    assert "Leakage was not looked for everywhere: the suite says `leakage: ignore`" in told
    assert all(variant["reused_from"] for variant in result()["variants"].values())
    assert not (workplace / "cache" / "leakage").exists()


def test_nothing_leaked_is_said_in_the_checks_alone(workplace, capfd):
    code, told = run(capfd)
    assert code == 0, told
    assert "Leakage" not in told
    found = checks("merged-4bit")["leakage"]
    assert found["ok"]
    assert "of 6 documents of held, none is exactly or nearly" in found["message"]


def test_a_suite_may_refuse(workplace, capfd):
    hold([*PLAIN, trained_on()[2]])
    code, told = run(capfd, "--set", "metrics.leakage=refuse")
    assert code == 2
    assert "metrics.leakage: refuse: 1 of 7 documents of held is also in" in told
    assert not Path("result.json").exists()


def test_what_an_adapter_from_elsewhere_learnt_is_not_known_and_that_is_said(workplace, capfd):
    assert run(capfd)[0] == 0
    (trained,) = (
        folder for folder in (workplace / "cache" / "adapters").iterdir() if folder.is_dir()
    )
    shutil.copytree(trained, workplace / "ready")
    code, told = run(capfd, "--set", "adapters.tuned={from: ./ready}")
    assert code == 0, told
    assert "tuned came ready-made, and what it was trained on is not known" in told
