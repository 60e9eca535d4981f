"""`evalkit compare` on stored runs: what its two arguments may be, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest

from evalkit.cli import run_command_line
from evalkit.records import JobRecord, Score
from evalkit.store import Store, VariantResult

pytestmark = pytest.mark.system

UNITS = 40


def score(shift=0.0):
    generator = np.random.default_rng(1)
    counts = generator.integers(20, 90, UNITS).astype(np.float64)
    sums = counts * (2 + shift + 0.01 * generator.standard_normal(UNITS))
    ids = tuple(f"{n:08x}" for n in range(UNITS))
    return Score(
        metric="perplexity", kind="perplexity", value=float(np.exp(sums.sum() / counts.sum())),
        stderr=0.1, unit="ppl/token", higher_is_better=False, unit_ids=ids, clusters=ids,
        sums=sums, counts=counts, comparison={"data": "d", "protocol": "documents"},
    )  # fmt: skip


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two runs of a suite, the second worse in nf4; the first is the baseline."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EVALKIT_DB", raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    with Store.open() as store:
        made = [stored(store, steps, shift) for steps, shift in ((12, 0.0), (24, 0.05))]
        store.promote(made[0], "main")
    return made


def stored(store, steps, shift):
    run_id = store.start_run(
        suite="tiny", place="s.yaml", suite_text="", arguments={},
        suite_json={"adapters": {"t": {"training": {"steps": steps}}}},
        provenance={"packages": {"torch": f"2.{steps}"}},
    )  # fmt: skip
    for name, moved in (("fp16", 0.0), ("nf4", shift)):
        job = JobRecord(f"score {name}", "score", "done", 1.0)
        result = VariantResult(
            name=name, path=({"load": name},), parent=None, edge="", job=job,
            scores={"perplexity": (f"{steps} {name}", score(moved))},
        )  # fmt: skip
        store.record_variant(run_id, result)
    store.finish_run(run_id, seconds=1.0, exit_code=0)
    return run_id


def evalkit(*arguments):
    return run_command_line([str(argument) for argument in arguments])


def compared(*arguments):
    assert evalkit("compare", *arguments, "--json", "c.json") == 0
    return json.loads(Path("c.json").read_text(encoding="utf-8"))


def test_two_runs(runs, capsys):
    told = compared(*runs)
    assert [(m["new_variant"], m["direction"]) for m in told["metrics"]] == [
        ("fp16", "identical"),
        ("nf4", "worse"),
    ]
    assert told["metrics"][1]["effect"] == pytest.approx(np.expm1(0.05))
    assert told["changes"] == ["torch 2.12 → 2.24", "adapters.t.training.steps 12 → 24"]
    assert [told["old"]["run"], told["new"]["run"]] == runs
    out = capsys.readouterr().out
    assert out.startswith("Of 2 scores, 1 got worse and 1 bit-identical; the largest loss is")
    assert '+        "steps": 24' in out


def test_the_order_of_the_two_is_the_direction(runs):
    assert compared(runs[1], runs[0])["metrics"][1]["direction"] == "better"


@pytest.mark.parametrize(
    ("old", "new", "variants"),
    [
        ("baseline", "latest", ["fp16", "nf4"]),
        ("baseline:nf4", "latest:nf4", ["nf4"]),
        ("baseline:nf4", "latest", ["nf4"]),
        ("baseline", "latest:nf4", ["nf4"]),
        ("main.json", "latest", ["fp16", "nf4"]),
        ("./main.json:nf4", "latest", ["nf4"]),
    ],
)
def test_baselines_and_files_are_sides_too(runs, old, new, variants):
    assert evalkit("baseline", "export", "main.json") == 0
    told = compared(old, new)
    assert [m["new_variant"] for m in told["metrics"]] == variants
    assert told["metrics"][-1]["direction"] == "worse"
    assert told["old"]["run"] == runs[0]


def test_the_baseline_may_be_the_second(runs):
    told = compared("latest", "baseline:nf4")
    assert [m["direction"] for m in told["metrics"]] == ["better"]


def test_two_variants_of_one_run(runs):
    told = compared("latest:fp16", "latest:nf4")
    (metric,) = told["metrics"]
    assert (metric["old_variant"], metric["new_variant"]) == ("fp16", "nf4")
    assert metric["direction"] == "worse"
    assert told["changes"] == ["path of fp16 → nf4: load fp16 → load nf4"]


def test_how_many_documents_are_named(runs, capsys):
    assert len(compared(*runs, "--top", "3")["metrics"][1]["moved"]) == 3
    capsys.readouterr()
    assert evalkit("compare", *runs, "--top", "0") == 0
    assert "What moved most" not in capsys.readouterr().out


def test_json_on_standard_output_is_alone_there(runs, capsys):
    assert evalkit("compare", *runs, "--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["schema"] == 1


def test_a_file_needs_no_run_on_the_other_side(runs):
    assert evalkit("baseline", "export", "main.json") == 0
    assert compared("main.json", "baseline")["metrics"][0]["direction"] == "identical"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nothing", "latest"), "no run 'nothing'"),
        (("latest:nf5", "latest"), "has no variant 'nf5' (allowed: fp16, nf4)"),
        (("latest", "baseline:nf5"), "has no variant 'nf5' (allowed: fp16, nf4)"),
        (("baseline", "baseline"), "name a run or a file there"),
        (("baseline", "latest", "--name", "release"), "has no baseline 'release'"),
        (("nowhere.json", "latest"), "nowhere.json: cannot be read"),
    ],
)
def test_what_is_not_there_is_told(runs, capsys, arguments, told):
    assert evalkit("compare", *arguments) == 2
    assert told in capsys.readouterr().err
