"""What a baseline asks of a run, and what is told of the gates and machines since it."""

from dataclasses import replace

import numpy as np
import pytest

from evalkit.baselines import (
    baseline_facts,
    check_baseline_name,
    environment_changes,
    failed_gates,
    failed_jobs,
    missing_scores,
    promote_command,
    relaxed_budgets,
)
from evalkit.errors import UsageError
from evalkit.records import (
    Baseline,
    Budget,
    Gate,
    JobRecord,
    RunRecord,
    Score,
    VariantRecord,
    Verdict,
)


def increase(percent, variant="nf4", against="fp16", **fields):
    budget = Budget(percent / 100, "relative")
    return Gate("perplexity", variant, against, max_increase=budget, **fields)


def score():
    return Score(
        metric="perplexity", kind="perplexity", value=9.0, stderr=None, unit="ppl/token",
        higher_is_better=False, unit_ids=("a",), clusters=("a",),
        sums=np.array([2.0]), counts=np.array([1.0]),
    )  # fmt: skip


def variant(name, *, scored=True, status="done"):
    error = "out of memory" if status == "failed" else None
    job = JobRecord(f"score {name}", "score", status, 1.0, error=error) if status else None
    return VariantRecord(name, (), None, "", job, {"perplexity": score()} if scored else {})


def run(gates=(), verdicts=(), **changes):
    record = RunRecord(
        id="20260101-000000-aaaa", suite="tiny", started="", seconds=1.0, exit_code=0,
        suite_text="", suite_json={}, arguments={}, provenance={},
        variants=(variant("fp16"), variant("nf4")), adapters=(),
        verdicts=tuple(verdicts), gates=tuple(gates),
    )  # fmt: skip
    return replace(record, **changes)


# ------------------------------------------------------------------------- relaxed


RELAXED = {
    "a wider budget": (increase(1), increase(3), ["budget relaxed 1 % → 3 %"]),
    "a tighter one": (increase(3), increase(1), []),
    "the same": (increase(1), increase(1), []),
    "from a demand to a budget": (increase(-5), increase(0), ["budget relaxed -5 % → 0 %"]),
    "points": (
        Gate("t/acc", "nf4", "fp16", max_decrease=Budget(0.01, "points")),
        Gate("t/acc", "nf4", "fp16", max_decrease=Budget(0.025, "points")),
        ["budget relaxed 1 pp → 2.5 pp"],
    ),
    "another unit": (
        increase(1),
        Gate("perplexity", "nf4", "fp16", max_increase=Budget(0.5, "absolute")),
        ["budget changed to another unit, 1 % → 0.5"],
    ),
    "a higher max": (
        Gate("perplexity", "nf4", maximum=20.0),
        Gate("perplexity", "nf4", maximum=25.0),
        ["limit relaxed at most 20 → at most 25"],
    ),
    "a lower max": (
        Gate("perplexity", "nf4", maximum=20.0), Gate("perplexity", "nf4", maximum=19.0), [],
    ),
    "a lower min": (
        Gate("t/acc", "nf4", minimum=0.9),
        Gate("t/acc", "nf4", minimum=0.8),
        ["limit relaxed at least 0.9 → at least 0.8"],
    ),
    "a higher min": (Gate("t/acc", "nf4", minimum=0.9), Gate("t/acc", "nf4", minimum=0.95), []),
    "expect": (increase(1), increase(1, expect="regressed"), ["`expect: regressed` added"]),
    "expect is gone": (increase(1, expect="regressed"), increase(1), []),
    "warn": (increase(1), increase(1, inconclusive="warn"), ["`inconclusive: warn` added"]),
    "two at once": (
        increase(1),
        increase(2, inconclusive="warn"),
        ["budget relaxed 1 % → 2 %, `inconclusive: warn` added"],
    ),
    "removed": (increase(1), None, ["gate removed (it allowed 1 %)"]),
    "against another": (
        increase(1), increase(1, against="bf16"), ["gate removed (it allowed 1 %)"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RELAXED)
def test_every_way_to_promise_less_is_named(name):
    old, new, told = RELAXED[name]
    subject = f"{old.metric} of nf4" + (f" against {old.against}" if old.against else "")
    found = relaxed_budgets([new] if new else [], [old])
    assert found == tuple(f"{subject}: {what}" for what in told)


def test_gates_of_one_kind_are_matched_by_strictness_whatever_their_order():
    then = [increase(1), increase(5, expect="regressed")]
    assert relaxed_budgets([increase(5, expect="regressed"), increase(1)], then) == ()
    assert relaxed_budgets([increase(5, expect="regressed"), increase(2)], then) == (
        "perplexity of nf4 against fp16: budget relaxed 1 % → 2 %",
    )
    assert relaxed_budgets([increase(1)], then) == (
        "perplexity of nf4 against fp16: gate removed (it allowed 5 %)",
    )


def test_a_new_gate_is_no_relaxation():
    assert relaxed_budgets([increase(1), increase(1, variant="other")], [increase(1)]) == ()


# ------------------------------------------------------------------------- environment


def test_what_differs_in_the_environment_is_named_and_nothing_else():
    old = {
        "device_name": "A100", "threads": 2, "python": "3.11.2", "git": {"revision": "a"},
        "packages": {"torch": "2.13.0", "peft": "1.0", "gone": "1"},
        "effective_dtypes": {"fp16": "fp16", "bf16": "bf16"},
    }  # fmt: skip
    new = {
        "device_name": "H100", "threads": 2, "python": "3.12.0", "git": {"revision": "b"},
        "packages": {"torch": "2.14.0", "peft": "1.0"}, "driver": "555",
        "effective_dtypes": {"fp16": "bf16", "bf16": "bf16"},
    }  # fmt: skip
    assert environment_changes(old, new) == (
        "device A100 → H100",
        "fp16 computed in fp16 → bf16",
        "Python 3.11.2 → 3.12.0",
        "torch 2.13.0 → 2.14.0",
    )
    assert environment_changes(old, old) == ()
    assert environment_changes({}, new) == ()


def test_a_run_keeps_what_a_reader_needs_of_its_baseline():
    baseline = Baseline(
        "main", "tiny", "r1", "2026-01-01T00:00:00+00:00", True, (increase(1),),
        {"packages": {"torch": "1"}, "model_digest": "1" * 64}, {},
    )  # fmt: skip
    now = {"packages": {"torch": "2"}, "model_digest": "2" * 64}
    facts = baseline_facts(baseline, [increase(3)], now, place="b.json")
    assert facts == {
        "name": "main",
        "suite": "tiny",
        "run": "r1",
        "promoted": "2026-01-01T00:00:00+00:00",
        "forced": True,
        "place": "b.json",
        "relaxed": ["perplexity of nf4 against fp16: budget relaxed 1 % → 3 %"],
        "sources": ["weights digest 111111111111 → 222222222222"],
        "differs": ["torch 1 → 2"],
    }


# ------------------------------------------------------------------------- promoting


def test_a_whole_run_with_good_gates_has_nothing_against_it():
    record = run([increase(1)], [Verdict(increase(1), "PASS", True)])
    assert (failed_gates(record), failed_jobs(record), missing_scores(record)) == ((), (), ())


def test_a_gate_that_only_lacks_a_baseline_is_no_failure():
    gate = increase(1, against="baseline")
    assert failed_gates(run([gate], [Verdict(gate, "MISSING", False)])) == ()


@pytest.mark.parametrize(
    ("gate", "name"),
    [
        (increase(1, against="baseline"), "REGRESSED"),
        (increase(1, against="baseline"), "INCOMPARABLE"),
        (increase(1, against="baseline", variant="int8"), "MISSING"),
        (increase(1), "MISSING"),
        (increase(1), "INCONCLUSIVE"),
        (increase(1, expect="regressed"), "PASS"),
    ],
)
def test_every_other_gate_that_is_not_ok_is_named(gate, name):
    told = f"perplexity of {gate.variant} against {gate.against} is {name}"
    assert failed_gates(run([gate], [Verdict(gate, name, False)])) == (told,)


def test_a_warned_gate_is_ok_and_an_unjudged_run_is_not():
    gate = increase(1, inconclusive="warn")
    assert failed_gates(run([gate], [Verdict(gate, "INCONCLUSIVE", True, warned=True)])) == ()
    assert failed_gates(run([gate])) == ("its gates were never judged",)


def test_a_run_that_is_not_whole_says_why():
    assert failed_jobs(run(exit_code=130)) == ("it was interrupted",)
    assert failed_jobs(run(exit_code=None, variants=(variant("nf4", status=None),))) == (
        "it has not ended",
        "nf4 was not scored",
    )
    broken = (variant("fp16"), variant("nf4", scored=False, status="failed"))
    assert failed_jobs(run(variants=broken)) == ("the job 'score nf4' failed",)
    trained = (JobRecord("train x", "train", "failed", 1.0, error="boom"),)
    assert failed_jobs(run(adapters=trained)) == ("the job 'train x' failed",)


def test_scores_that_gates_judge_must_be_there():
    gates = [increase(1), increase(2), increase(1, variant="int8"), Gate("t/acc", "nf4", minimum=1)]
    assert missing_scores(run(gates)) == ("perplexity of int8", "t/acc of nf4")


# ------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("name", "database", "told"),
    [
        ("main", None, ""),
        ("main", "runs.db", " --db runs.db"),
        ("release-1.0", None, " --name release-1.0"),
        ("main", "my runs/a b.db", " --db 'my runs/a b.db'"),
        ("main", "postgresql://host/runs", " --db postgresql://host/runs"),
        ("main", "postgresql://me:secret@host/runs", ' --db "$EVALKIT_DB"'),
        ("main", "postgresql://host/runs?password=secret", ' --db "$EVALKIT_DB"'),
    ],
)
def test_the_command_that_promotes_can_be_pasted_and_tells_no_password(name, database, told):
    command = promote_command("20260101-000000-aaaa", name=name, database=database)
    assert command == f"evalkit baseline promote 20260101-000000-aaaa{told}"


@pytest.mark.parametrize("name", ["", "-x", "a b", "main.json", "a/b", "x" * 65, "ü", "a\n"])
def test_a_name_that_could_be_a_file_or_an_option_is_refused(name):
    with pytest.raises(UsageError, match="no name for a baseline"):
        check_baseline_name(name)
    assert check_baseline_name("release-1.0+cpu") == "release-1.0+cpu"
