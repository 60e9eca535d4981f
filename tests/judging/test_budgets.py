from __future__ import annotations

import math

import numpy as np
import pytest

from evalkit.judging.budgets import (
    IncomparableError,
    absolute_test,
    difference_test,
    differing_fields,
)
from evalkit.records import Budget, Gate, MetricKind, Score

IDS = ("d1", "d2", "d3")


def score(kind: MetricKind, ratio: float) -> Score:
    counts = np.array([10.0, 20.0, 30.0])
    sums = counts * ratio + np.array([1.0, 0.0, -1.0])
    value = math.exp(ratio) if kind == "perplexity" else ratio
    return Score("m", kind, value, None, "u", False, IDS, IDS, sums, counts)


# What is tested: (kind, budget's unit) → effect of ratios 2.1 against 2.0 on the test's scale,
# and the worst allowed one for a budget of 0.05, up and down.
SCALES = {
    ("perplexity", "relative"): (0.1, math.log(1.05), math.log(0.95)),
    ("perplexity", "absolute"): (math.exp(2.1) - math.exp(2.0), 0.05, -0.05),
    ("mean", "relative"): (0.05, 0.05, -0.05),
    ("mean", "points"): (0.1, 0.05, -0.05),
    ("mean", "absolute"): (0.1, 0.05, -0.05),
}


@pytest.mark.parametrize(("kind", "unit"), SCALES)
def test_effects_and_limits(kind, unit):
    effect, above, below = SCALES[kind, unit]
    pair, budget = (score(kind, 2.1), score(kind, 2.0)), Budget(0.05, unit)
    up = difference_test(Gate("m", "a", "b", max_increase=budget), *pair, bootstrap=None)
    down = difference_test(Gate("m", "a", "b", max_decrease=budget), *pair, bootstrap=None)
    assert up.comparison.effect == pytest.approx(effect, rel=1e-9)
    assert (up.limit, up.sense) == (pytest.approx(above), 1)
    assert (down.limit, down.sense) == (pytest.approx(below), -1)
    assert down.is_better(down.comparison.effect)
    assert not up.is_better(up.comparison.effect)


def test_what_is_shown_is_in_the_budgets_unit():
    pair = score("perplexity", 2.1), score("perplexity", 2.0)
    relative = Gate("m", "a", "b", max_increase=Budget(0.05, "relative"))
    test = difference_test(relative, *pair, bootstrap=None)
    assert test.show(test.comparison.effect) == pytest.approx(math.exp(0.1) - 1)
    assert test.show(test.limit) == pytest.approx(0.05)


def test_no_decrease_is_past_a_budget_of_all_of_it():
    pair = score("perplexity", 0.1), score("perplexity", 9.0)
    gate = Gate("m", "a", "b", max_decrease=Budget(1.0, "relative"))
    assert difference_test(gate, *pair, bootstrap=None).p_value == 1


@pytest.mark.parametrize(("kind", "bound"), [("perplexity", math.log(7.5)), ("mean", 7.5)])
def test_absolute_limits(kind, bound):
    most = absolute_test(Gate("m", "a", maximum=7.5), score(kind, 2.0), bootstrap=None)
    least = absolute_test(Gate("m", "a", minimum=7.5), score(kind, 2.0), bootstrap=None)
    assert (most.limit, most.sense) == (pytest.approx(bound), 1)
    assert (least.limit, least.sense) == (pytest.approx(bound), -1)
    assert most.show(most.comparison.effect) == pytest.approx(score(kind, 2.0).value)
    assert most.p_value + least.p_value == pytest.approx(1, abs=0.3)


def test_budgets_without_a_meaning():
    gate = Gate("m", "a", "b", max_increase=Budget(0.01, "points"))
    pair = score("perplexity", 2.1), score("perplexity", 2.0)
    with pytest.raises(IncomparableError, match="percentage points"):
        difference_test(gate, *pair, bootstrap=None)
    gate = Gate("m", "a", "b", max_increase=Budget(0.01, "relative"))
    with pytest.raises(IncomparableError, match="above zero, not -2"):
        difference_test(gate, score("mean", 2.1), score("mean", -2.0), bootstrap=None)
    with pytest.raises(ValueError, match="no budget"):
        difference_test(Gate("m", "a", "b"), *pair, bootstrap=None)


def test_equal_scores_differ_in_nothing():
    assert differing_fields(score("mean", 1.0), score("mean", 2.0)) == ()
    assert differing_fields(score("mean", 1.0), score("perplexity", 1.0)) == (
        "kind (mean, perplexity)",
    )


@pytest.mark.parametrize("absolute", [False, True])
def test_an_interval_that_no_float_holds_has_no_end(absolute):
    """Two very uneven clusters: one degree of freedom, and far less than one in effect."""
    ids, counts = ("d1", "d2"), np.array([10_000.0, 1.0])

    def of(*losses):
        sums = counts * np.array(losses)
        value = math.exp(sums.sum() / counts.sum())
        return Score("m", "perplexity", value, None, "u", False, ids, ids, sums, counts)

    if absolute:
        test = absolute_test(Gate("m", "a", maximum=9.0), of(2.0, 900.0), bootstrap=None)
    else:
        gate = Gate("m", "a", "b", max_increase=Budget(0.05, "relative"))
        test = difference_test(gate, of(2.0, 900.0), of(2.0, 1.0), bootstrap=None)
    low, high = test.shown_interval(test.comparison.low, test.comparison.high)
    assert low is not None
    assert math.isfinite(low)
    assert high == math.inf
