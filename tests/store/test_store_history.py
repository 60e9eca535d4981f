"""A suite's history: what every run said, without what lies behind it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import sqlalchemy as sa

from evalkit.records import Budget, Gate, JobRecord, Score, Verdict
from evalkit.report.sentence import verdict_sentence
from evalkit.report.site.looking_back import status
from evalkit.store import Store, VariantResult

GATE = Gate("perplexity", "nf4", against="fp16", max_increase=Budget(0.1, "relative"))


def score(value, *, data="d", n=6):
    names = tuple(f"d{index}" for index in range(n))
    return Score(
        "perplexity", "perplexity", value, 0.1, "ppl/token", False, names,
        tuple(f"c{index // 2}" for index in range(n)), np.arange(n, dtype=float), np.ones(n),
        extra={"bits_per_byte": 1.0}, comparison={"data": data},
    )  # fmt: skip


def job(name, **changes):
    return dataclasses.replace(
        JobRecord(f"score {name}", "score", "done", 1.0, facts={"notes": ["ä"]}), **changes
    )


@pytest.fixture
def store(place):
    with Store.open(place) as opened:
        yield opened


def add_run(store, *, suite="a", values=(10.0, 10.5), data="d", verdict="PASS", end=True):
    run = store.start_run(
        suite=suite, place="a.yaml", suite_text="name: a\n", suite_json={"name": suite},
        arguments={"given": {"x": 1}}, provenance={"packages": {"torch": "1"}}, gates=[GATE],
    )  # fmt: skip
    for name, value in zip(("fp16", "nf4"), values, strict=True):
        made = score(value, data=data)
        result = VariantResult(
            name, ({"load": "fp16"},), None, "load", job(name),
            scores={"perplexity": (f"{name}{value}{data}", made)},
        )  # fmt: skip
        store.record_variant(run, result)
    if verdict:
        found = Verdict(
            GATE, verdict, verdict == "PASS", effect=0.05, low=0.01, high=0.09, n_units=6
        )
        store.record_verdicts(run, [found])
    if end:
        store.finish_run(run, seconds=2.0, exit_code=0)
    return run


def test_suites_come_by_their_first_run(store):
    for suite in ("zebra", "a", "zebra", "m"):
        add_run(store, suite=suite)
    assert store.list_suites() == ("zebra", "a", "m")


def test_an_outline_says_what_the_whole_run_says(store):
    ids = [
        add_run(store),
        add_run(store, verdict="REGRESSED"),
        add_run(store, verdict="", end=False),
    ]
    history = store.load_history("a")
    assert sorted(ids) == sorted(past.outline.id for past in history.runs)
    for past in history.runs:
        whole, outline = store.load_run(past.outline.id), past.outline
        assert verdict_sentence(outline) == verdict_sentence(whole)
        assert status(outline) == status(whole)
        for name in ("id", "suite", "started", "seconds", "exit_code", "provenance", "arguments",
                     "suite_json", "gates", "verdicts", "place"):  # fmt: skip
            assert getattr(outline, name) == getattr(whole, name), name
        for mine, full in zip(outline.variants, whole.variants, strict=True):
            assert (mine.name, mine.path, mine.job) == (full.name, full.path, full.job)
            for metric, made in mine.scores.items():
                other = full.scores[metric]
                for field in (
                    "value",
                    "stderr",
                    "unit",
                    "unit_ids",
                    "clusters",
                    "extra",
                    "comparison",
                ):
                    assert getattr(made, field) == getattr(other, field), field
                assert past.scores[mine.name][metric].n_clusters == 3


def test_nothing_can_be_worked_out_from_an_outline_unnoticed(store):
    add_run(store)
    (past,) = store.load_history("a").runs
    made = past.outline.variants[0].scores["perplexity"]
    assert np.isnan(made.sums).all()
    assert made.token_losses == ()


def test_comparison_keys_are_equal_where_scores_may_be_compared(store):
    for data in ("d", "d", "e"):
        add_run(store, data=data, values=(10.0, 11.0 if data == "d" else 12.0))
    keys = {}
    for past in store.load_history("a").runs:
        made = past.outline.variants[0].scores["perplexity"]
        keys.setdefault(made.comparison["data"], set()).add(
            past.scores["fp16"]["perplexity"].comparison_key
        )
    assert len(keys["d"]) == 1
    assert keys["d"] != keys["e"]


def test_a_stamp_changes_when_a_run_is_judged_again_and_only_then(store):
    run, other = add_run(store), add_run(store)
    before = {past.outline.id: past.stamp for past in store.load_history("a").runs}
    again = {past.outline.id: past.stamp for past in store.load_history("a").runs}
    assert before == again
    store.record_verdicts(run, [Verdict(GATE, "MISSING", False)])
    after = {past.outline.id: past.stamp for past in store.load_history("a").runs}
    assert after[run] != before[run]
    assert after[other] == before[other]


def test_baselines_are_the_newest_of_each_name(store):
    first, second = add_run(store), add_run(store)
    store.promote(first, "main")
    store.promote(second, "main")
    store.promote(first, "release")
    assert [(b.name, b.run) for b in store.load_history("a").baselines] == [
        ("main", second), ("release", first),
    ]  # fmt: skip


def test_a_suite_that_never_ran_has_an_empty_history(store):
    assert store.load_history("nowhere").runs == ()


def test_queries_do_not_grow_with_runs(store):
    def queries():
        seen = []
        listen = lambda *arguments: seen.append(arguments[2])  # noqa: E731
        sa.event.listen(store._engine, "before_cursor_execute", listen)
        store.load_history("a")
        sa.event.remove(store._engine, "before_cursor_execute", listen)
        return len(seen)

    add_run(store)
    few = queries()
    for _ in range(5):
        add_run(store)
    assert queries() == few <= 9
