from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from evalkit.statistics.clusters import paired_ratio
from evalkit.statistics.comparisons import Comparison, exceedance_p_value
from evalkit.statistics.power import VisibleChange, clusters_to_settle, visible_change
from evalkit.statistics.proportions import Pairs


def seen(effect: float, stderr: float | None = 1.0, *, clusters: int = 50, even: float = 50.0):
    return Comparison(effect, stderr, even - 1, None, None, clusters, clusters, even)


def test_what_would_settle_it():
    quantiles = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
    assert clusters_to_settle(seen(0.0), 1.0) == math.ceil(50 * quantiles**2)
    assert clusters_to_settle(seen(0.0), 0.25) is None
    assert clusters_to_settle(seen(1.0), 1.0) is None
    assert clusters_to_settle(seen(0.0, None), 1.0) is None
    assert clusters_to_settle(seen(0.0), 1000.0) == 51
    assert clusters_to_settle(seen(0.0, clusters=30, even=10.0), 1000.0) == 60


@pytest.mark.parametrize("estimate", ["skewness", "expected_skewness"])
def test_skewness_asks_for_more_clusters_towards_its_longer_tail(estimate):
    skewed = replace(seen(0.0), **{estimate: 0.3})
    assert clusters_to_settle(skewed, 1.0) > clusters_to_settle(seen(0.0), 1.0)
    assert clusters_to_settle(skewed, -1.0) == clusters_to_settle(seen(0.0), -1.0)


def test_the_promised_power_is_reached_at_the_promised_size():
    generator = np.random.default_rng(11)
    pilot = seen(0.0, 0.05 / math.sqrt(50))
    size = clusters_to_settle(pilot, 0.015)
    values = generator.normal(0.0, 0.05, (4000, size))
    upper = values.mean(axis=1) + stats.t.ppf(0.975, size - 1) * stats.sem(values, axis=1)
    assert (upper <= 0.015).mean() == pytest.approx(0.8, abs=0.03)


# ----------------------------------------------------------------------------- visible changes


def test_without_a_standard_error_nothing_is_visible():
    assert visible_change(seen(0.0, None), limit=1.0, sense=1) == VisibleChange(None, False, None)


def test_a_measurement_without_a_sample_sees_everything():
    point = Comparison(0.9, 0.0, 0, 0.9, 0.9, 0, 0, 0.0)
    found = visible_change(point, limit=0.8, sense=-1, unchanged=0.9)
    assert found == VisibleChange(0.8, True, 0.9)


def test_few_clusters_see_losses_and_pass_nothing():
    found = visible_change(seen(0.0, even=8.0), limit=100.0, sense=1)
    assert found.regression > 100.0
    assert not found.passes_unchanged
    assert found.least_budget is None


@pytest.mark.parametrize("sense", [1, -1])
def test_the_least_budget_is_where_an_unchanged_model_begins_to_pass(sense):
    found = visible_change(seen(0.7), limit=sense * 1.0, sense=sense)
    assert not found.passes_unchanged
    least = found.least_budget
    assert sense * least == pytest.approx(stats.t.ppf(0.975, 49) + stats.t.ppf(0.8, 49))
    assert found.regression == pytest.approx(sense * 1.0 + least)
    assert visible_change(seen(0.7), limit=least, sense=sense).passes_unchanged
    assert not visible_change(seen(0.7), limit=0.99 * least, sense=sense).passes_unchanged


def test_an_absolute_limit_is_planned_from_the_value_as_it_is():
    found = visible_change(seen(10.0), limit=12.0, sense=1, unchanged=10.0)
    assert found.least_budget == pytest.approx(12.86, abs=0.01)
    assert not found.passes_unchanged


def test_hits_that_agree_are_no_proof_of_sharp_eyes():
    agreeing = replace(seen(0.0, 0.0), counts=Pairs(0, 0, 50), counts_alone=True)
    found = visible_change(agreeing, limit=-0.02, sense=-1)
    assert found.least_budget < -0.05
    assert not found.passes_unchanged


@pytest.mark.parametrize(("tail", "power"), [("normal", (0.75, 0.85)), ("skewed", (0.7, 0.9))])
def test_what_is_said_to_be_visible_is_seen_with_80_per_cent_power(tail, power):
    generator, clusters, limit = np.random.default_rng(14), 100, 0.02
    counts, names = np.full(clusters, 100.0), [str(i) for i in range(clusters)]

    def comparison(effect: float) -> Comparison:
        draws = generator.normal(0.0, 1.0, clusters)
        if tail == "skewed":
            draws = 1.0 - generator.exponential(1.0, clusters)
        a = counts * (effect + 0.05 * draws)
        return paired_ratio(a + 9 * counts, counts, 9 * counts, counts, names, bootstrap=None)

    plans = [visible_change(comparison(0.0), limit=limit, sense=1) for _ in range(100)]
    truth = float(np.median([plan.regression for plan in plans]))
    least = float(np.median([plan.least_budget for plan in plans]))
    called = [exceedance_p_value(comparison(truth), limit, sense=1) <= 0.025 for _ in range(800)]
    passed = [comparison(0.0).high <= least for _ in range(800)]
    assert power[0] <= np.mean(called) <= power[1]
    assert power[0] <= np.mean(passed) <= power[1]
