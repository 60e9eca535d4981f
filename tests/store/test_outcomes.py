"""What a variant did with each sample of a task comes back from the store bit for bit."""

import math

import numpy as np
import pytest

from evalkit.records import JobRecord, SampleOutcome, Score, VariantRecord
from evalkit.store import Store, VariantResult

OUTCOMES = (
    SampleOutcome("0", "1", False, (-0.1 - 2**-50, -math.pi)),
    SampleOutcome("2", None, False, (-1.5, -1.5, -3.25), tied=True),
    SampleOutcome("wort", "ein\nWort \ud800", True),
    SampleOutcome("1", "1", None, (-1e-300, -(2.0**-1074))),
)


def task_score(metric, outcomes=OUTCOMES, value=0.25):
    ids = tuple(f"d{n}" for n in range(4))
    return Score(
        metric=metric, kind="mean", value=value, stderr=0.1, unit="accuracy",
        higher_is_better=True, unit_ids=ids, clusters=ids, sums=np.array([0.0, 0.0, 1.0, 0.0]),
        counts=np.ones(4), extra={"n_ties": 1}, outcomes=outcomes,
    )  # fmt: skip


@pytest.fixture
def store(tmp_path):
    with Store.open(str(tmp_path / "runs.db")) as store:
        yield store


def started(store):
    variants = (VariantRecord("nf4", ({"load": "fp16"},), None, "", None, {}),)
    return store.start_run(
        suite="s", suite_text="", suite_json={}, place="s.yaml", arguments={}, provenance={},
        gates=(), variants=variants,
    )  # fmt: skip


def record(store, scores):
    run = started(store)
    job = JobRecord("score nf4", "score", "done", 1.0)
    result = VariantResult("nf4", ({"load": "fp16"},), None, "", job, scores)
    store.record_variant(run, result)
    return run


def test_outcomes_come_back_bit_for_bit(store):
    run = record(store, {"t/acc": ("k" * 64, task_score("t/acc"))})
    (variant,) = store.load_run(run).variants
    assert variant.scores["t/acc"].outcomes == OUTCOMES


def test_a_score_without_outcomes_has_none(store):
    run = record(store, {"t/acc": ("k" * 64, task_score("t/acc", outcomes=()))})
    assert store.load_run(run).variants[0].scores["t/acc"].outcomes == ()


def test_one_key_finds_every_metric_and_the_newest_of_each(store):
    key = "k" * 64
    record(store, {m: (key, task_score(m)) for m in ("t/acc", "t/acc_norm")})
    record(store, {"t/acc": (key, task_score("t/acc", value=0.5))})
    found = store.find_scores(key)
    assert {metric: score.value for metric, score in found.items()} == {
        "t/acc": 0.5,
        "t/acc_norm": 0.25,
    }
    assert store.find_scores("x" * 64) == {}
