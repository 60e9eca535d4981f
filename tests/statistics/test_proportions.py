from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from evalkit.statistics.clusters import ALPHA, exceedance_p_value, paired_ratio, single_ratio
from evalkit.statistics.proportions import Pairs, Proportion, ends, independent


def tail_by_counting(pairs: Pairs, bound: float) -> float:
    """P(gained − lost ≥ seen) by summing the trinomial distribution, its losses at the maximum of
    the likelihood over a grid."""
    size = int(pairs.size)
    gained, lost = np.meshgrid(np.arange(size + 1), np.arange(size + 1), indexing="ij")
    possible = gained + lost <= size
    gained, lost = gained[possible], lost[possible]

    def mass(falls: float, counts: np.ndarray) -> np.ndarray:
        shares = [falls + bound, falls, 1 - 2 * falls - bound]
        return stats.multinomial.pmf(counts, size, shares)

    grid = np.linspace(max(0.0, -bound), (1 - bound) / 2, 4001)
    here = np.array([pairs.gained, pairs.lost, size - pairs.gained - pairs.lost])
    likely = max(grid, key=lambda falls: float(mass(falls, here)))
    all_ = np.column_stack([gained, lost, size - gained - lost])
    reached = gained - lost >= pairs.gained - pairs.lost
    return float(mass(likely, all_)[reached].sum())


@pytest.mark.parametrize("bound", [-0.3, -0.05, 0.0, 0.02, 0.2])
@pytest.mark.parametrize("seen", [(0, 0), (1, 0), (0, 3), (4, 2), (6, 9)])
def test_the_tail_is_that_of_the_trinomial(seen, bound):
    pairs = Pairs(*seen, 18)
    assert pairs.p_value(bound, sense=1) == pytest.approx(tail_by_counting(pairs, bound), abs=2e-3)


def test_the_two_directions_mirror_each_other():
    assert Pairs(2, 7, 90).p_value(-0.03, sense=-1) == Pairs(7, 2, 90).p_value(0.03, sense=1)


def test_no_flip_leaves_the_loss_that_could_have_been_missed():
    low, high = ends(Pairs(0, 0, 50), ALPHA)
    assert low == pytest.approx(-(1 - ALPHA ** (1 / 50)), abs=1e-8)
    assert high == -low


def test_a_budget_of_nothing_is_mcnemars_question():
    pairs = Pairs(3, 14, 400)
    exact = stats.binomtest(3, 17, alternative="less").pvalue
    assert pairs.p_value(0.0, sense=-1) == pytest.approx(exact, rel=0.25)
    assert ends(pairs, ALPHA)[1] < 0


def test_with_many_flips_it_is_walds_interval():
    low, high = ends(Pairs(700, 800, 14000), ALPHA)
    error = np.sqrt(1500 / 14000 - (100 / 14000) ** 2) / np.sqrt(14000)
    assert (low, high) == pytest.approx(
        (-100 / 14000 - 1.96 * error, -100 / 14000 + 1.96 * error), abs=1e-4
    )


@pytest.mark.parametrize("hits", [0, 1, 25, 49, 50])
def test_a_share_has_clopper_and_pearsons_interval(hits):
    expected = stats.binomtest(hits, 50).proportion_ci(0.95, method="exact")
    assert ends(Proportion(hits, 50), ALPHA) == pytest.approx(
        (expected.low, expected.high), abs=1e-8
    )


def test_an_interval_imports_no_slow_part_of_scipy():
    code = (
        "import sys; from evalkit.statistics.proportions import Pairs, ends;"
        "ends(Pairs(1, 5, 80), 0.025); print({'scipy.optimize', 'scipy.stats'} & set(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout == "set()\n", answer.stderr


def test_relative_limits_are_in_units_of_the_reference():
    assert Pairs(1, 5, 80, unit=0.5).p_value(-0.1, sense=-1) == Pairs(1, 5, 80).p_value(
        -0.05, sense=-1
    )
    low, _ = ends(Pairs(1, 5, 80, unit=0.5), ALPHA)
    assert low == pytest.approx(2 * ends(Pairs(1, 5, 80), ALPHA)[0], abs=1e-7)


def test_limits_beyond_what_is_possible():
    assert Pairs(1, 5, 80).p_value(1.0, sense=1) == 1
    assert Pairs(1, 5, 80).p_value(-1.1, sense=1) == 0
    assert Proportion(5, 80).p_value(-0.1, sense=1) == 0
    assert Proportion(80, 80).p_value(0.5, sense=-1) == 1


# ----------------------------------------------------------------------------- clusters


def test_a_design_effect_divides_the_counts():
    pairs = Pairs(20, 40, 600)
    simple = pairs.simple_error
    known = {"informative": 30, "effective_clusters": 60.0}
    assert independent(pairs, stderr=simple / 2, **known) == pairs
    assert independent(pairs, stderr=2 * simple, **known).size == pytest.approx(150)


def test_where_few_clusters_hold_a_flip_each_counts_as_one_sample():
    found = independent(Pairs(0, 2, 600), stderr=1e-6, informative=2, effective_clusters=60.0)
    assert found.size == 60
    assert found.lost == pytest.approx(0.2)


def hits(generator, clusters, samples, lost_share, gained_share, together):
    """Two sides of hits; flips of a cluster correlated by beta-distributed rates."""

    def rate(mean: float) -> np.ndarray:
        if together == 0 or mean == 0:
            return np.full(clusters, mean)
        more = (1 - together) / together
        return generator.beta(mean * more, (1 - mean) * more, clusters)

    where = np.repeat(np.arange(clusters), samples)
    draw = generator.random(len(where))
    lost, gained = draw < rate(lost_share)[where], draw > 1 - rate(gained_share)[where]
    b = np.where(lost, 1.0, np.where(gained, 0.0, generator.integers(0, 2, len(where))))
    a = np.where(lost, 0.0, np.where(gained, 1.0, b))
    return a, b, [str(i) for i in where]


@pytest.mark.parametrize(
    ("clusters", "samples", "lost", "gained", "together"),
    [
        (50, 1, 0.03, 0.0, 0.0),
        (300, 1, 0.04, 0.01, 0.0),
        (60, 6, 0.03, 0.0, 0.3),
        (60, 6, 0.10, 0.07, 0.3),
    ],
)
def test_errors_on_hits_are_what_is_promised(clusters, samples, lost, gained, together):
    """At a true loss on the budget of 3 points; a plain t interval passes (50, 1) 22 times in a
    hundred, whenever nothing flips."""
    generator, replicates, passed, rejected = np.random.default_rng(15), 250, 0, 0
    for _ in range(replicates):
        a, b, names = hits(generator, clusters, samples, lost, gained, together)
        ones = np.ones(len(a))
        found = paired_ratio(a, ones, b, ones, names, shares=True, bootstrap=None)
        passed += found.low >= -0.03
        rejected += exceedance_p_value(found, -0.03, sense=-1) <= ALPHA
    bound = ALPHA + 3 * np.sqrt(ALPHA * (1 - ALPHA) / replicates)
    assert passed / replicates <= bound
    assert rejected / replicates <= bound


@pytest.mark.parametrize(("clusters", "samples"), [(60, 1), (60, 6)])
def test_errors_on_a_share_are_what_is_promised(clusters, samples):
    generator, replicates, passed, rejected = np.random.default_rng(16), 400, 0, 0
    for _ in range(replicates):
        rate = generator.beta(9.0, 0.5, clusters) if samples > 1 else np.full(clusters, 18 / 19)
        sums = (generator.random(clusters * samples) < np.repeat(rate, samples)).astype(float)
        names = [str(i // samples) for i in range(len(sums))]
        found = single_ratio(sums, np.ones(len(sums)), names, shares=True, bootstrap=None)
        passed += found.low >= 18 / 19
        rejected += found.high < 18 / 19
    bound = ALPHA + 3 * np.sqrt(ALPHA * (1 - ALPHA) / replicates)
    assert passed / replicates <= bound
    assert rejected / replicates <= bound


def test_values_in_part_fall_back_on_counts_only_where_almost_none_moved():
    generator = np.random.default_rng(17)
    b = generator.random(100)
    ones, names = np.ones(100), [str(i) for i in range(100)]
    same = paired_ratio(b, ones, b, ones, names, shares=True, bootstrap=None)
    assert not same.identical
    assert same.low == pytest.approx(-(1 - ALPHA**0.01), abs=1e-6)
    moved = np.clip(b + generator.normal(0, 0.01, 100), 0, 1)
    far = paired_ratio(moved, ones, b, ones, names, shares=True, bootstrap=None)
    assert far.counts is None
    assert far.high - far.low < 0.01
