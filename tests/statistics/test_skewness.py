from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from evalkit.statistics.skewness import expected_skewness, sample_skewness


def influence(effects: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The jackknife's influence values of Σns/Σn, which the estimate takes its residuals from."""
    total = counts.sum()
    return counts * (effects - counts @ effects / total) / (total - counts)


def test_with_equal_lengths_both_estimates_are_the_sample_skewness_over_the_root_of_its_size():
    effects = np.random.default_rng(0).exponential(1.0, 50)
    values = influence(effects, np.full(50, 7.0))
    assert sample_skewness(values) == pytest.approx(stats.skew(effects) / math.sqrt(50))
    assert expected_skewness(values, np.full(50, 7.0)) == pytest.approx(sample_skewness(values))


def test_what_does_not_spread_has_no_skewness():
    counts = np.array([1.0, 10.0, 100.0])
    assert sample_skewness(np.zeros(3)) == 0
    assert expected_skewness(np.zeros(3), counts) == 0


def test_short_documents_tell_what_a_long_one_that_is_no_outlier_does_not():
    generator = np.random.default_rng(1)
    effects = generator.exponential(1.0, 400) - 1.0
    counts = np.full(400, 100.0)
    counts[:4], effects[:4] = 4000.0, [0.5, -0.5, 0.4, -0.4]
    values = influence(effects, counts)
    shares = counts / counts.sum()
    true = 2.0 * (shares**3).sum() / (shares**2).sum() ** 1.5
    assert abs(sample_skewness(values)) < 0.2 * true
    assert expected_skewness(values, counts) > 0.6 * true


@pytest.mark.parametrize(
    ("exponent", "weights"), [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0), (-0.5, 1.0), (1.5, 0.0)]
)
def test_the_spread_at_each_length_is_learnt_within_its_bounds(exponent, weights):
    """Effects that shrink as n^−γ: weights n^(1 − γ) in the sum of third moments."""
    generator = np.random.default_rng(2)
    counts = np.exp(generator.normal(5.0, 1.0, 200_000))
    shape = generator.exponential(1.0, len(counts)) - 1.0
    values = influence(shape * counts**-exponent, counts)
    scale = counts**weights
    shape = shape * counts ** (1.0 - weights - exponent)
    true = stats.skew(shape) * (scale**3).sum() / (scale**2).sum() ** 1.5
    assert expected_skewness(values, counts) == pytest.approx(true, rel=0.15)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_sign_and_no_unit(sign):
    generator = np.random.default_rng(3)
    counts = np.exp(generator.normal(5.0, 1.0, 60))
    values = influence(generator.exponential(1.0, 60), counts)
    once = expected_skewness(values, counts)
    assert once > 0
    assert expected_skewness(sign * 3.0 * values, 10.0 * counts) == pytest.approx(sign * once)


def test_clusters_that_did_not_move_at_all_do_not_decide_the_exponent():
    counts = np.exp(np.random.default_rng(4).normal(5.0, 1.0, 100))
    values = np.where(np.arange(100) < 5, counts, 0.0) / counts.sum()
    assert math.isfinite(expected_skewness(values, counts))
    assert expected_skewness(values, counts) > 0
