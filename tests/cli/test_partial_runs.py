"""A run of some variants, a run that only says what it would do, and one that goes on."""

import gc
import json
import shutil
from pathlib import Path

import pytest
from small_run import small_run, write_suite

from evalkit.cli import run_command_line
from evalkit.store import Store

pytestmark = pytest.mark.system

METRICS = "  divergence: {on: texts, reference: nf4+adapter, max_length: 64}\n"
GATES = """\
gates:
  - {metric: perplexity, variant: nf4, max: 1e9, inconclusive: warn}
  - {metric: perplexity, variant: nf4, against: merged-4bit, max_increase: 1000%,
     inconclusive: warn}
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_folder):
    """A folder in which the whole suite was run once. Read only: tests copy it."""
    gc.freeze()
    folder = tmp_path_factory.mktemp("whole")
    write_suite(folder, tiny_folder, metrics=METRICS + GATES)
    small_run(folder)
    yield folder
    gc.unfreeze()


@pytest.fixture
def place(tmp_path, whole, monkeypatch):
    """A folder with the suite alone."""
    for file in ("suite.yaml", "data.jsonl"):
        shutil.copy2(whole / file, tmp_path / file)
    return settled(tmp_path, monkeypatch)


@pytest.fixture
def known(tmp_path, whole, monkeypatch):
    """A folder in which the whole suite was run before."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    return settled(tmp_path, monkeypatch)


def settled(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("EVALKIT_CACHE", str(folder / "cache"))
    monkeypatch.setenv("EVALKIT_DB", str(folder / "runs.db"))
    monkeypatch.setenv("COLUMNS", "200")
    return folder


def run(*arguments):
    return run_command_line(["run", "suite.yaml", *arguments])


def told():
    return json.loads(Path("result.json").read_text(encoding="utf-8"))


def newest():
    with Store.open("runs.db") as store:
        return store.load_run()


def test_only_computes_one_variant_with_its_adapter_and_its_reference(place, capsys):
    """The divergence's reference attaches the adapter: it is trained, and written, not scored."""
    assert run("--only", "nf4", "--json", "result.json") == 1
    log = capsys.readouterr().err
    assert "1 to train, 1 of 3 variants to score" in log
    assert "✓ train tuned" in log
    assert "✓ reference nf4+adapter" in log
    variants = told()["variants"]
    assert set(variants["nf4"]["metrics"]) == {"perplexity", "divergence"}
    assert not variants["nf4+adapter"]["metrics"]
    assert not variants["merged-4bit"]["metrics"]
    assert [verdict["verdict"] for verdict in told()["verdicts"]] == ["INCONCLUSIVE", "MISSING"]
    assert newest().provenance["only"] == ["nf4"]
    assert run_command_line(["baseline", "promote", "latest"]) == 2
    refusal = capsys.readouterr().err
    assert "merged-4bit was not scored" in refusal


def test_only_trains_nothing_that_it_does_not_need(place, capsys):
    suite = Path("suite.yaml")
    suite.write_text(suite.read_text().replace(METRICS, ""))
    assert run("--only", "nf4") == 1
    assert "0 to train, 1 of 3 variants" in capsys.readouterr().err
    assert not (place / "cache" / "adapters").exists()


def test_only_takes_other_variants_from_the_store(known, capsys):
    """Everything is stored but what is forced: gates on the others are judged as ever."""
    before = newest()
    assert run("--only", "nf4", "--force", "--json", "result.json") == 0
    log = capsys.readouterr().err
    assert "✓ score nf4 " in log
    assert f"↺ score merged-4bit  reused from run {before.id}" in log
    assert told()["variants"]["merged-4bit"]["reused_from"] == before.id
    assert [verdict["ok"] for verdict in told()["verdicts"]] == [True, True]
    assert [variant.name for variant in newest().variants] == [v.name for v in before.variants]


def test_only_refuses_a_name_that_no_variant_has(place, capsys):
    assert run("--only", "nf4", "--only", "merged-4bits") == 2
    error = capsys.readouterr().err
    assert "no variant 'merged-4bits' (did you mean 'merged-4bit'?)" in error
    assert "allowed: nf4, nf4+adapter, merged-4bit" in error
    assert run("--only", "nf4", "--bootstrap") == 2
    assert "--bootstrap" in capsys.readouterr().err


def test_a_dry_run_says_what_plan_says_and_leaves_nothing(place, capsys):
    assert run("--dry-run") == 0
    out = capsys.readouterr().out
    assert "to train" in out
    assert "dry run: nothing was computed or stored" in out
    assert run_command_line(["plan", "suite.yaml", "--db", "other.db"]) == 0
    assert out.split("\nmemory")[0] == capsys.readouterr().out.split("\nmemory")[0]
    assert not (place / "runs.db").exists()
    assert not (place / "reports").exists()
    assert {entry.name for entry in (place / "cache").iterdir()} == {"digests"}


def test_a_dry_run_knows_what_is_stored_left_out_and_forced(known, capsys):
    first = newest().id
    assert run("--dry-run", "--only", "nf4", "--force") == 0
    lines = {line.split("  ")[0].strip(): line for line in capsys.readouterr().out.splitlines()}
    assert "to train" in lines["train tuned"]
    assert "to score: perplexity" in lines["score nf4"]
    assert f"left out; stored (run {first})" in lines["score merged-4bit"]
    assert newest().id == first


def test_resume_names_the_run_it_goes_on_from(known, capsys):
    assert run("--resume") == 2
    assert f"{newest().id}, ended with exit code 0" in capsys.readouterr().err
    with Store.open("runs.db") as store:
        stopped = newest().id
        store.finish_run(stopped, seconds=1.0, exit_code=130)
    assert run("--resume") == 0
    log = capsys.readouterr().err
    assert f"going on from run {stopped}, which was interrupted: 3 of 3" in log
    assert f"↺ train tuned  reused from run {stopped}" in log


def test_resume_refuses_where_there_is_nothing(place, capsys):
    assert run("--resume") == 2
    assert "there is no store yet" in capsys.readouterr().err
    assert not (place / "runs.db").exists()
    assert run("--resume", "--force") == 2
    assert "--force" in capsys.readouterr().err


def test_the_log_says_where_each_number_is_from(known, capsys):
    """A metric that is new costs itself alone; an adapter may be known to the cache alone."""
    first = newest().id
    suite = Path("suite.yaml")
    extra = (
        "perplexity:\n    one: {on: texts, max_length: 64}\n    two: {on: texts, max_length: 32}"
    )
    text = suite.read_text().replace("perplexity: {on: texts, max_length: 64}", extra)
    suite.write_text(text.replace("metric: perplexity", "metric: perplexity/one"))
    assert run("--only", "nf4") == 0
    line = next(line for line in capsys.readouterr().err.splitlines() if "✓ score nf4 " in line)
    assert f"perplexity/one, divergence reused from run {first}" in line
    assert run("--only", "nf4+adapter", "--db", "new.db") == 1
    assert "↺ train tuned  reused from the cache" in capsys.readouterr().err


def test_what_is_left_out_keeps_its_other_seeds(tmp_path, tiny_folder):
    """An adapter that is trained several times is judged by its mean, in a partial run too."""
    write_suite(tmp_path, tiny_folder, training=", seeds: [0, 1]")
    whole, _ = small_run(tmp_path)
    part, jobs = small_run(tmp_path, only=("nf4",))
    seeds = [[again.label for again in v.repeats] for v in whole.variants]
    assert seeds == [[], ["seed 1"], ["seed 1"]]
    assert [[again.label for again in v.repeats] for v in part.variants] == seeds
    assert set(jobs.values()) == {"reused"}
