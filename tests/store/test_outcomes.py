"""What tasks asked, and what a variant did with each sample, come back bit for bit."""

import math
from dataclasses import replace

import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from evalkit.records import JobRecord, SampleOutcome, SampleText, Score, VariantRecord
from evalkit.statistics.answers import answers_digest
from evalkit.store import Store, VariantResult, tables

OUTCOMES = (
    SampleOutcome("0", "1", False, (-0.1 - 2**-50, -math.pi)),
    SampleOutcome("2", None, False, (-1.5, -1.5, -3.25), tied=True),
    SampleOutcome("wort", "ein\nWort \ud800", True),
    SampleOutcome("1", "1", None, (-1e-300, -(2.0**-1074))),
)


TEXTS = (
    SampleText("2 + 2 =", (" 4", " 5")),
    SampleText("", ("Who hides?", "Hides who?")),
    SampleText("…\0 \ud800 schreib:"),
    SampleText("2 + 2 =", (" 4", " 5")),
)


def task_score(metric, outcomes=OUTCOMES, value=0.25, texts=()):
    ids = tuple(f"d{n}" for n in range(4))
    return Score(
        metric=metric, kind="mean", value=value, stderr=0.1, unit="accuracy",
        higher_is_better=True, unit_ids=ids, clusters=ids, sums=np.array([0.0, 0.0, 1.0, 0.0]),
        counts=np.ones(4), extra={"n_ties": 1}, outcomes=outcomes,
        sample_texts=texts,
    )  # fmt: skip


@pytest.fixture
def store(place):
    with Store.open(place) as store:
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
    found = store.find_scores([key])[key]
    assert {metric: score.value for metric, score in found.items()} == {
        "t/acc": 0.5,
        "t/acc_norm": 0.25,
    }
    assert store.find_scores(["x" * 64]) == {"x" * 64: {}}


def test_several_keys_find_each_their_own(store):
    keys = ["k" * 64, "l" * 64, "m" * 64]
    for value, key in enumerate(keys[:2], start=1):
        record(store, {"t/acc": (key, task_score("t/acc", value=value / 4))})
    found = store.find_scores(keys[::-1])
    values = {key: [score.value for score in scores.values()] for key, scores in found.items()}
    assert values == {keys[0]: [0.25], keys[1]: [0.5], keys[2]: []}
    assert store.find_scores([]) == {}


# ------------------------------------------------------------------------- texts


def text_sets(store):
    with Session(store._engine) as session:
        return session.scalar(sa.select(sa.func.count()).select_from(tables.TaskTextSet))


def test_texts_are_stored_once_for_all_metrics_and_variants(store):
    for key in ("a" * 64, "b" * 64):
        run = record(store, {m: (key, task_score(m, texts=TEXTS)) for m in ("t/acc", "t/acc_norm")})
        (variant,) = store.load_run(run).variants
        for score in variant.scores.values():
            assert score.sample_texts == TEXTS
    assert text_sets(store) == 1


def test_the_same_documents_put_in_another_way_have_texts_of_their_own(store):
    other = tuple(replace(text, prompt=f"1 + 1 = 2. {text.prompt}") for text in TEXTS)
    run = record(
        store,
        {
            "t/acc": ("a" * 64, task_score("t/acc", texts=TEXTS)),
            "t5/acc": ("b" * 64, task_score("t5/acc", texts=other)),
            "old/acc": ("c" * 64, task_score("old/acc")),
        },
    )
    (variant,) = store.load_run(run).variants
    assert variant.scores["t/acc"].sample_texts == TEXTS
    assert variant.scores["t5/acc"].sample_texts == other
    assert variant.scores["old/acc"].sample_texts == ()
    assert text_sets(store) == 2


def test_a_score_that_is_reused_has_its_texts(store):
    record(store, {"t/acc": ("k" * 64, task_score("t/acc", texts=TEXTS))})
    found = store.find_scores(["k" * 64])["k" * 64]["t/acc"]
    run = started(store)
    job = JobRecord("score nf4", "score", "reused", 0.0, reused_from=found.run)
    result = VariantResult("nf4", (), None, "", job, reused={"t/acc": found.id})
    store.record_variant(run, result)
    assert store.load_run(run).variants[0].scores["t/acc"].sample_texts == TEXTS


def test_texts_are_no_part_of_what_was_answered():
    with_texts, without = task_score("t/acc", texts=TEXTS), task_score("t/acc")
    told = tuple(replace(o, log_likelihoods=(-1.0,)) for o in OUTCOMES[:1] + OUTCOMES[3:]) * 2
    one, other = (replace(score, outcomes=told) for score in (with_texts, without))
    assert answers_digest(one) == answers_digest(other) != ""


def test_texts_that_are_not_one_for_each_unit_are_refused():
    with pytest.raises(ValueError, match="unequal lengths"):
        task_score("t/acc", texts=TEXTS[:3])
