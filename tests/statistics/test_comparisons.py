from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from evalkit.statistics.clusters import paired_ratio
from evalkit.statistics.comparisons import (
    ALPHA,
    Comparison,
    exceedance_p_value,
    skewness_margin,
    with_interval,
    with_training_spread,
)
from evalkit.statistics.proportions import Pairs


def seen(
    effect: float,
    stderr: float | None = 1.0,
    *,
    clusters: int = 50,
    even: float = 50.0,
    **changes: object,
) -> Comparison:
    plain = Comparison(effect, stderr, even - 1, None, None, clusters, clusters, even)
    return with_interval(replace(plain, **changes))  # type: ignore[arg-type]


# ----------------------------------------------------------------------------- tests


def test_a_p_value_is_that_of_student():
    expected = stats.t.sf(2.0, 49)
    assert exceedance_p_value(seen(3.0), 1.0, sense=1) == pytest.approx(expected, rel=1e-12)
    assert exceedance_p_value(seen(-3.0), -1.0, sense=-1) == pytest.approx(expected, rel=1e-12)
    assert exceedance_p_value(seen(3.0), 1.0, sense=-1) == pytest.approx(1 - expected, rel=1e-12)
    assert exceedance_p_value(seen(3.0, None), 1.0, sense=1) is None


def test_uneven_clusters_cost_degrees_of_freedom():
    few = exceedance_p_value(seen(3.0, even=5.5), 1.0, sense=1)
    assert few == pytest.approx(stats.t.sf(2.0, 4.5), rel=1e-12)
    assert exceedance_p_value(seen(3.0, even=1.01), 1.0, sense=1) == pytest.approx(
        stats.t.sf(2.0, 0.5), rel=1e-9
    )


def test_a_shift_without_spread_needs_no_distribution():
    assert exceedance_p_value(seen(0.2, 0.0), 0.1, sense=1) == 0
    assert exceedance_p_value(seen(0.1, 0.0), 0.1, sense=1) == 1
    assert exceedance_p_value(seen(0.1), -math.inf, sense=-1) == 1


comparisons = st.builds(
    seen,
    st.floats(-1, 1),
    st.floats(0.01, 1),
    even=st.floats(3.0, 500.0),
    skewness=st.floats(-0.9, 0.9),
)


@given(comparisons, st.sampled_from([-1, 1]))
def test_the_interval_is_what_the_tests_do_not_reject(comparison, sense):
    edge = comparison.low if sense > 0 else comparison.high
    step = 1e-6 * comparison.stderr
    inside = exceedance_p_value(comparison, edge + sense * step, sense=sense)
    outside = exceedance_p_value(comparison, edge - sense * step, sense=sense)
    assert outside < ALPHA < inside


@given(comparisons)
def test_skewness_lengthens_one_side_and_never_shortens_the_other(comparison):
    plain = with_interval(replace(comparison, skewness=0.0))
    assert comparison.low <= plain.low
    assert comparison.high >= plain.high
    longer = comparison.high - comparison.effect, comparison.effect - comparison.low
    if comparison.skewness > 1e-6:
        assert longer[0] > longer[1]
    elif comparison.skewness < -1e-6:
        assert longer[0] < longer[1]


def test_more_skewness_means_more_and_more_clusters_mean_less():
    margins = [skewness_margin(seen(0.0, skewness=k), sense=1) for k in (0.0, 0.05, 0.1, 0.5)]
    assert margins == sorted(margins)
    assert margins[0] == 0
    assert margins[-1] == pytest.approx(1 + 30 / 50, rel=0.01)
    many = seen(0.0, even=5000.0, clusters=5000, skewness=0.05)
    theory = 0.05 * (1 + 2 * 1.96**2) / 6
    assert theory < skewness_margin(many, sense=1) < 2.2 * theory
    assert skewness_margin(many, sense=-1) == 0


def test_the_larger_estimate_of_skewness_lengthens_its_side():
    both = seen(0.0, skewness=-0.05, expected_skewness=0.1)
    only = seen(0.0, expected_skewness=0.1)
    assert skewness_margin(both, sense=1) == skewness_margin(only, sense=1) > 0
    assert skewness_margin(both, sense=-1) == skewness_margin(seen(0.0, skewness=-0.05), sense=-1)
    assert skewness_margin(both, sense=-1) > 0 == skewness_margin(only, sense=-1)


# ----------------------------------------------------------------------------- training


def test_training_adds_its_variance_and_satterthwaites_degrees_of_freedom():
    found = with_training_spread(seen(0.5, 0.3), spread=0.4, n_seeds=3, averaged=1)
    assert found.stderr == pytest.approx(0.5)
    assert found.df == pytest.approx(0.5**4 / (0.3**4 / 49 + 0.4**4 / 2))
    margin = stats.t.ppf(0.975, found.df) * 0.5
    assert (found.low, found.high) == pytest.approx((0.5 - margin, 0.5 + margin))
    assert found.effect == 0.5
    averaged = with_training_spread(seen(0.5, 0.3), spread=0.4, n_seeds=4, averaged=4)
    assert averaged.stderr == pytest.approx(math.hypot(0.3, 0.2))


def test_training_leaves_of_the_skewness_what_the_documents_share_of_the_variance():
    skewed = seen(0.5, 0.3, skewness=0.2, expected_skewness=0.4)
    found = with_training_spread(skewed, spread=0.4, n_seeds=3, averaged=1)
    assert found.skewness == pytest.approx(0.2 * 0.6**3)
    assert found.expected_skewness == pytest.approx(0.4 * 0.6**3)


def test_training_without_spread_changes_nothing():
    for comparison in (seen(0.5), seen(0.5, None)):
        assert with_training_spread(comparison, spread=0.0, n_seeds=3, averaged=1) == comparison
    alone = seen(0.5, None)
    assert with_training_spread(alone, spread=0.1, n_seeds=3, averaged=1) == alone


@pytest.mark.parametrize(
    "wrong",
    [{"spread": -1.0}, {"n_seeds": 1}, {"averaged": 0}],
)
def test_a_spread_of_nothing_is_refused(wrong):
    given_ = {"spread": 0.1, "n_seeds": 3, "averaged": 1, **wrong}
    with pytest.raises(ValueError, match="seeds"):
        with_training_spread(seen(0.5), **given_)


def test_identical_scores_of_one_seed_are_not_exact_when_seeds_differ():
    same = seen(0.0, 0.0, identical=True)
    found = with_training_spread(same, spread=0.1, n_seeds=3, averaged=1)
    assert not found.exact
    assert found.low < -0.1 < 0.1 < found.high


def test_training_does_not_narrow_what_the_hits_say():
    none_flipped = seen(0.0, 0.0, counts=Pairs(0, 0, 50), counts_alone=True)
    assert none_flipped.high == pytest.approx(0.0711, abs=1e-4)
    found = with_training_spread(none_flipped, spread=0.01, n_seeds=3, averaged=1)
    assert found.high > none_flipped.high
    assert found.low < none_flipped.low


def test_errors_with_training_are_what_is_promised():
    """Each replicate trains anew: the true effect is the mean over seeds, and on the limit."""
    generator, replicates, passed, rejected = np.random.default_rng(21), 1500, 0, 0
    for _ in range(replicates):
        seeds = generator.normal(0.03, 0.02, 5)
        difference = generator.normal(seeds[0], 0.1, 60)
        comparison = seen(difference.mean(), stats.sem(difference), clusters=60, even=60.0)
        spread = float(seeds.std(ddof=1))
        found = with_training_spread(comparison, spread=spread, n_seeds=5, averaged=1)
        passed += found.high <= 0.03
        rejected += found.low > 0.03
    bound = ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / replicates)
    assert passed / replicates <= bound
    assert rejected / replicates <= bound


# ----------------------------------------------------------------------------- calibration

TAILS = {
    "normal": lambda generator, shape: generator.normal(0.0, 1.0, shape),
    "t3": lambda generator, shape: generator.standard_t(3, shape) / math.sqrt(3),
    "exponential": lambda generator, shape: generator.exponential(1.0, shape) - 1,
}


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("per_cluster", [1, 4])
def test_errors_and_coverage_are_what_is_promised(tail, per_cluster):
    """At a true effect on the budget, over 40 even clusters whose documents share half the effect.

    Bounds are the nominal rates and three Monte-Carlo standard errors. Plain Student passes some
    5 % of exponential populations falsely.
    """
    generator, replicates, limit = np.random.default_rng(12), 1200, 0.03
    names = [f"c{i // per_cluster}" for i in range(40 * per_cluster)]
    passed = rejected = 0
    for _ in range(replicates):
        counts = generator.integers(90, 111, len(names)).astype(float)
        b = counts * generator.normal(2.5, 0.4, len(names))
        shared = np.repeat(limit + 0.05 * TAILS[tail](generator, 40), per_cluster)
        a = b + counts * (shared + generator.normal(0.0, 0.02, len(names)))
        found = paired_ratio(a, counts, b, counts, names, bootstrap=None)
        passed += found.high <= limit
        rejected += exceedance_p_value(found, limit, sense=1) <= ALPHA
    bound = ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / replicates)
    assert passed / replicates <= bound
    assert rejected / replicates <= bound
    covered = 1 - (passed + rejected) / replicates
    assert 0.94 - 3 * math.sqrt(0.06 * 0.94 / replicates) <= covered < 0.99


def test_an_interval_over_very_uneven_clusters_covers_too():
    generator, replicates, covered = np.random.default_rng(13), 1500, 0
    for _ in range(replicates):
        counts = np.round(150 * np.exp(generator.normal(0.0, 1.2, 160)))
        a = counts * generator.normal(0.03, 0.05, 160)
        names = [str(i) for i in range(160)]
        found = paired_ratio(a + 9 * counts, counts, 9 * counts, counts, names, bootstrap=None)
        covered += found.low <= 0.03 <= found.high
    assert covered / replicates >= 0.94 - 3 * math.sqrt(0.06 * 0.94 / replicates)


def test_a_rare_bad_long_document_is_reckoned_with_before_it_is_seen():
    """Skewness 2 over very uneven clusters: the sample's own skewness alone passes some 4.5 %."""
    generator, replicates, passed = np.random.default_rng(15), 2000, 0
    names = [str(i) for i in range(160)]
    for _ in range(replicates):
        counts = np.round(150 * np.exp(generator.normal(0.0, 1.2, 160)))
        a = counts * (0.03 + 0.05 * TAILS["exponential"](generator, 160))
        found = paired_ratio(a + 9 * counts, counts, 9 * counts, counts, names, bootstrap=None)
        passed += found.high <= 0.03 and not found.few_clusters
    assert passed / replicates <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / replicates)
