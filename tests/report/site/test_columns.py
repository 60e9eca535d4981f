"""The numbers that the pages' scripts read are the runs' own."""

from __future__ import annotations

from dataclasses import replace

import pytest
from histories import history_of, made_up_records

from evalkit.report import facts
from evalkit.report.site.columns import (
    Texts,
    differing_facts,
    metric_columns,
    rounded,
    runs_columns,
    variant_names,
)
from evalkit.report.site.places import Places


@pytest.fixture
def history(made_up):
    return history_of(made_up_records(made_up.detailed, 12))


def test_every_value_is_there_with_its_interval(history):
    variants = variant_names(history)
    metrics = {metric["name"]: metric for metric in metric_columns(history, variants)}
    assert {"perplexity", "blimp/acc", "divergence", "survival"} <= set(metrics)
    for series in metrics["perplexity"]["series"]:
        assert series["run"] == 0
        for at, past in enumerate(history.runs):
            score = past.outline.variants[series["variant"]].scores["perplexity"]
            low, high = facts.interval(score)
            assert series["value"][at] == pytest.approx(score.value, rel=1e-5)
            assert (series["low"][at], series["high"][at]) == (rounded(low), rounded(high))


def test_what_was_measured_exactly_has_no_interval(history):
    metrics = metric_columns(history, variant_names(history))
    survival = next(metric for metric in metrics if metric["name"] == "survival")
    assert {low for series in survival["series"] for low in series["low"]} == {None}


def test_other_data_break_the_line_and_are_named(history):
    metric = metric_columns(history, variant_names(history))[0]
    assert metric["breaks"] == [[10, "data"]]
    assert all(series["key"] == [[0, 0], [10, 1]] for series in metric["series"])


def test_a_variant_that_failed_once_leaves_a_run_out(history):
    runs = list(history.runs)
    first, *rest = runs[3].outline.variants
    outline = replace(runs[3].outline, variants=(replace(first, scores={}), *rest))
    runs[3] = replace(runs[3], outline=outline)
    series = metric_columns(replace(history, runs=tuple(runs)), variant_names(history))[0]["series"]
    assert series[0]["run"] == [0, 1, 2, *range(4, 12)]
    assert series[1]["run"] == 0


def test_timed_costs_are_not_followed(made_up):
    history = history_of([made_up.costly_run()])
    names = [metric["name"] for metric in metric_columns(history, variant_names(history))]
    assert "disk" in names
    assert not {"load_seconds", "decode_speed", "peak_memory"} & set(names)


def test_each_run_says_what_changed_since_the_one_before(history):
    texts = Texts()
    runs = runs_columns(history, Places("quickstart"), texts)
    told = [[texts.listed[place] for place in line] for line in runs["changed"]]
    assert told[0] == []
    assert "torch 2.13.0 → 2.14.0" in told[6]
    assert texts.listed[runs["git"][5]].endswith(" with changes")
    assert set(runs["url"]) == {None}


def test_only_facts_that_differ_are_kept(history):
    texts = Texts()
    columns = differing_facts(history, texts)["columns"]
    assert set(columns) == {"git: revision", "packages: torch", "packages: peft"}
    assert len({len(column) for column in columns.values()}) == 1


def test_provenance_of_any_shape_is_told_or_left_out(made_up):
    odd = [{"packages": "none", "git": 7}, {"packages": {"a": [1, 2]}, "git": {"revision": 3}}, {}]
    history = history_of([made_up.run(id=f"r{at}", provenance=p) for at, p in enumerate(odd)])
    texts = Texts()
    assert differing_facts(history, texts)["columns"]["git: revision"] == [-1, texts.place("3"), -1]
    assert runs_columns(history, Places("x"), texts)["changed"] == [[], [], []]


def test_no_number_is_null():
    assert rounded(float("inf")) is None
    assert rounded(12.3456789) == 12.3457
