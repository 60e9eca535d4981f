from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from evalkit.statistics.clusters import (
    ALPHA,
    Bootstrap,
    Comparison,
    holm,
    paired_ratio,
    ratio_standard_error,
    single_ratio,
)
from evalkit.statistics.ratios import cluster_totals, resampled_totals

SCALES = ("difference", "exp_difference", "relative")


def units(count: int) -> list[str]:
    return [f"u{i}" for i in range(count)]


def oracle_standard_error(sums, counts, clusters) -> float:
    """The delete-one-cluster jackknife about the whole ratio, by a loop over clusters."""
    ratio = math.fsum(sums) / math.fsum(counts)
    moved = []
    for name in set(clusters):
        rest = [i for i, cluster in enumerate(clusters) if cluster != name]
        without = math.fsum(sums[i] for i in rest) / math.fsum(counts[i] for i in rest)
        moved.append(ratio - without)
    size = len(moved)
    return math.sqrt((size - 1) / size * math.fsum(m * m for m in moved))


def oracle_effect(weights: np.ndarray, table: np.ndarray, scale: str) -> float:
    """The effect where cluster c counts weights[c] times."""
    sum_a, count_a, sum_b, count_b = weights @ table
    a, b = sum_a / count_a, sum_b / count_b
    return {
        "difference": a - b,
        "exp_difference": math.exp(a) - math.exp(b),
        "relative": a / b - 1,
    }[scale]


@st.composite
def paired_data(draw):
    size = draw(st.integers(3, 25))
    number = st.floats(0.1, 5.0)
    counts = np.array(draw(st.lists(st.integers(1, 400), min_size=size, max_size=size)), float)
    b = counts * np.array(draw(st.lists(number, min_size=size, max_size=size)))
    a = b + counts * np.array(draw(st.lists(st.floats(-1, 1), min_size=size, max_size=size)))
    names = st.lists(st.sampled_from("pqrstuvw"), min_size=size - 2, max_size=size - 2)
    return a, counts, b, ["first", "second", *draw(names)]


# ----------------------------------------------------------------------------- standard errors


@given(paired_data())
def test_the_standard_error_is_the_jackknife(data):
    sums, counts, _, clusters = data
    expected = oracle_standard_error(sums, counts, clusters)
    assert ratio_standard_error(sums, counts, clusters) == pytest.approx(
        expected, rel=1e-9, abs=1e-13
    )


def test_with_equal_counts_it_is_that_of_a_mean():
    values = np.random.default_rng(0).normal(size=30)
    found = ratio_standard_error(values * 7, np.full(30, 7.0), units(30))
    assert found == pytest.approx(stats.sem(values), rel=1e-12)


def test_a_case_worked_by_hand():
    # R = 12/6 = 2; without a document 11/5, 7/4, 6/3: off by -1/5, 1/4, 0.
    found = ratio_standard_error(np.array([1.0, 5, 6]), np.array([1.0, 2, 3]), units(3))
    assert found == pytest.approx(math.sqrt(2 / 3 * (1 / 25 + 1 / 16)), rel=1e-15)


def test_documents_of_one_cluster_are_one_observation():
    sums, counts = np.array([1.0, 5, 6, 4]), np.array([1.0, 2, 3, 2])
    merged = ratio_standard_error(np.array([6.0, 6, 4]), np.array([3.0, 3, 2]), units(3))
    assert ratio_standard_error(sums, counts, ["x", "x", "y", "z"]) == merged


def test_one_cluster_has_no_standard_error():
    assert ratio_standard_error(np.array([1.0, 2]), np.array([1.0, 1]), ["x", "x"]) is None
    comparison = single_ratio(np.array([3.0]), np.array([2.0]), ["x"])
    assert comparison.effect == 1.5
    assert comparison.low is comparison.high is comparison.bootstrap_low is None


def test_clusters_that_counted_nothing_are_left_out():
    sums, counts = np.array([1.0, 5, 6]), np.array([1.0, 2, 3])
    more = single_ratio(np.append(sums, [0, 0]), np.append(counts, [0, 0]), units(5))
    assert more.n_clusters == 3
    assert more.stderr == single_ratio(sums, counts, units(3)).stderr


@pytest.mark.parametrize(
    ("sums", "counts", "clusters", "said"),
    [
        ([1.0, 2.0], [1.0, 1.0], ["x"], "units"),
        ([1.0, math.nan], [1.0, 1.0], ["x", "y"], "finite"),
        ([1.0, 2.0], [1.0, -1.0], ["x", "y"], "negative"),
        ([1.0, 2.0], [1.0, 0.0], ["x", "y"], "no count"),
        ([0.0, 0.0], [0.0, 0.0], ["x", "y"], "nothing was counted"),
        ([], [], [], "nothing was counted"),
    ],
)
def test_what_cannot_be_estimated_is_refused(sums, counts, clusters, said):
    with pytest.raises(ValueError, match=said):
        ratio_standard_error(np.array(sums), np.array(counts), clusters)


# ----------------------------------------------------------------------------- pairs


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("sums_a", "sums_b", "counts", "scale"),
    [
        ([0.1], [0.1], [11.0], "difference"),  # one cluster: nothing is left without it
        ([700.0, 350.0, 1.0], [1.0, 0.5, 2.0], [1.0, 1e-9, 1.0], "exp_difference"),
    ],
)
def test_what_has_no_interval_says_so_without_a_warning(sums_a, sums_b, counts, scale):
    sides = [np.array(each) for each in (sums_a, counts, sums_b, counts)]
    comparison = paired_ratio(*sides, units(len(counts)), scale=scale, bootstrap=None)
    assert comparison.stderr is comparison.low is comparison.high is None


@pytest.mark.parametrize("scale", SCALES)
def test_the_linearisation_is_the_infinitesimal_jackknife(scale):
    generator = np.random.default_rng(4)
    counts, other = np.full(30, 100.0), np.full(30, 105.0)
    b = other * generator.normal(2.5, 0.4, 30)
    a = counts * (b / other + generator.normal(0.1, 0.05, 30))
    found = paired_ratio(a, counts, b, other, units(30), scale=scale)
    table = np.column_stack([a, counts, b, other])
    step, whole = 1e-6, np.ones(30)
    slopes = [
        (
            oracle_effect(whole + step * row, table, scale)
            - oracle_effect(whole - step * row, table, scale)
        )
        / (2 * step)
        for row in np.eye(30)
    ]
    assert found.effect == pytest.approx(oracle_effect(whole, table, scale), rel=1e-12)
    assert found.stderr == pytest.approx(math.sqrt(30 / 29 * np.square(slopes).sum()), rel=1e-6)
    assert found.df == pytest.approx(29)


def test_pairing_removes_what_documents_share():
    generator = np.random.default_rng(5)
    counts = np.full(50, 100.0)
    b = counts * generator.normal(2.5, 1.0, 50)
    a = b + counts * generator.normal(0.05, 0.01, 50)
    paired = paired_ratio(a, counts, b, counts, units(50))
    assert paired.stderr < ratio_standard_error(b, counts, units(50)) / 50


def test_equal_counts_and_symmetry_give_the_paired_t_interval():
    generator = np.random.default_rng(6)
    b, half = generator.normal(2.5, 0.4, 24), generator.normal(0.05, 0.1, 12)
    difference, counts = np.concatenate([half, 0.1 - half]), np.full(24, 64.0)
    found = paired_ratio(64 * (b + difference), counts, 64 * b, counts, units(24))
    expected = stats.ttest_1samp(difference, 0.0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_a_cluster_that_holds_all_of_a_side_leaves_no_standard_error():
    sums_a, counts_a = np.array([3.0, 0, 0]), np.array([2.0, 0, 0])
    found = paired_ratio(sums_a, counts_a, np.ones(3), np.ones(3), units(3))
    assert found.n_clusters == 3
    assert found.effect == 0.5
    assert found.stderr is found.low is found.high is None


@given(paired_data(), st.randoms(use_true_random=False))
def test_the_order_of_documents_does_not_matter(data, random):
    a, counts, b, clusters = data
    order = list(range(len(a)))
    random.shuffle(order)
    bootstrap = Bootstrap(resamples=50)
    first = paired_ratio(a, counts, b, counts, clusters, bootstrap=bootstrap)
    shuffled = [clusters[i] for i in order]
    again = paired_ratio(
        a[order], counts[order], b[order], counts[order], shuffled, bootstrap=bootstrap
    )
    assert_close(first, again)


@given(paired_data(), st.sampled_from(SCALES), st.floats(0.01, 100.0))
def test_the_scale_of_the_counts_does_not_matter(data, scale, factor):
    a, counts, b, clusters = data
    bootstrap = Bootstrap(resamples=50)
    first = paired_ratio(a, counts, b, counts, clusters, scale=scale, bootstrap=bootstrap)
    a, counts, b = a * factor, counts * factor, b * factor
    again = paired_ratio(a, counts, b, counts, clusters, scale=scale, bootstrap=bootstrap)
    assert_close(first, again)


@given(paired_data(), st.sampled_from(["difference", "exp_difference"]))
def test_swapping_the_sides_negates_the_effect(data, scale):
    a, counts, b, clusters = data
    bootstrap = Bootstrap(resamples=50)
    ab = paired_ratio(a, counts, b, counts, clusters, scale=scale, bootstrap=bootstrap)
    ba = paired_ratio(b, counts, a, counts, clusters, scale=scale, bootstrap=bootstrap)
    assert ab.effect == pytest.approx(-ba.effect, abs=1e-10)
    assert ab.stderr == pytest.approx(ba.stderr, abs=1e-10)
    assert ab.low == pytest.approx(-ba.high, abs=1e-9)
    assert ab.bootstrap_low == pytest.approx(-ba.bootstrap_high, abs=1e-9)


@given(paired_data())
def test_doubling_every_document_inside_its_cluster_changes_nothing(data):
    a, counts, b, clusters = data
    first = paired_ratio(a, counts, b, counts, clusters, bootstrap=None)
    a2, n2, b2 = np.tile(a, 2), np.tile(counts, 2), np.tile(b, 2)
    again = paired_ratio(a2, n2, b2, n2, clusters * 2, bootstrap=None)
    assert again.stderr == pytest.approx(first.stderr, rel=1e-9, abs=1e-12)
    assert again.n_units == 2 * first.n_units


@given(paired_data())
def test_effective_clusters_are_between_one_and_all(data):
    a, counts, b, clusters = data
    found = paired_ratio(a, counts, b, counts, clusters, bootstrap=None)
    assert 1 - 1e-9 <= found.effective_clusters <= found.n_clusters + 1e-9


def assert_close(first: Comparison, again: Comparison) -> None:
    for name in ("effect", "stderr", "low", "high", "bootstrap_low", "bootstrap_high"):
        one, other = getattr(first, name), getattr(again, name)
        assert other == pytest.approx(one, rel=1e-8, abs=1e-10), name
    assert again.effective_clusters == pytest.approx(first.effective_clusters, rel=1e-9)


def test_identical_sides_are_known_as_such():
    sums, counts = np.array([1.0, 5, 6]), np.array([1.0, 2, 3])
    same = paired_ratio(sums, counts, sums.copy(), counts, units(3))
    assert same.identical
    assert same.exact
    assert same.effect == same.stderr == 0
    assert not paired_ratio(sums + 1e-15, counts, sums, counts, units(3)).identical


def test_effective_clusters_of_uneven_ones():
    counts = np.array([100.0, 1, 1, 1, 1])
    found = single_ratio(counts * 2, counts, units(5), bootstrap=None)
    assert found.effective_clusters == pytest.approx(104**2 / 10004)
    assert found.few_clusters


def test_a_relative_effect_needs_a_positive_reference():
    one, zero = np.ones(5), np.zeros(5)
    with pytest.raises(ValueError, match="above zero"):
        paired_ratio(one, one, zero, one, units(5), scale="relative")


def test_the_bootstrap_is_seeded_and_agrees_where_it_should():
    generator = np.random.default_rng(8)
    counts = generator.integers(50, 150, 300).astype(float)
    b = counts * generator.normal(2.5, 0.4, 300)
    a = b + counts * generator.normal(0.05, 0.1, 300)
    first = paired_ratio(a, counts, b, counts, units(300))
    assert first == paired_ratio(a, counts, b, counts, units(300))
    other = paired_ratio(a, counts, b, counts, units(300), bootstrap=Bootstrap(seed=1))
    assert other.bootstrap_low != first.bootstrap_low
    width = first.high - first.low
    assert first.bootstrap_low == pytest.approx(first.low, abs=0.05 * width)
    assert first.bootstrap_high == pytest.approx(first.high, abs=0.05 * width)


def test_totals_follow_the_names_of_clusters():
    totals = cluster_totals([np.array([1.0, 2, 4]), np.array([1.0, 1, 1])], ["b", "a", "b"])
    assert totals.tolist() == [[2, 1], [5, 2]]


# ----------------------------------------------------------------------------- several tests


def test_holm_of_his_own_kind_of_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([]) == ()
    assert holm([0.9, 0.8]) == (1.0, 1.0)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_rejects_what_his_step_down_rejects(p_values):
    order, rejected = sorted(range(len(p_values)), key=p_values.__getitem__), set()
    for rank, index in enumerate(order):
        if (len(p_values) - rank) * p_values[index] > ALPHA:
            break
        rejected.add(index)
    adjusted = holm(p_values)
    assert {i for i, p in enumerate(adjusted) if p <= ALPHA} == rejected
    assert all(p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))
    assert [adjusted[i] for i in order] == sorted(adjusted)


# ----------------------------------------------------------------------------- bootstrap draws


def percentile_interval(totals: np.ndarray) -> np.ndarray:
    drawn = resampled_totals(totals, Bootstrap(resamples=4000))
    return np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975])


def test_draws_of_few_kinds_and_of_many_clusters_are_the_same_bootstrap():
    sums = np.repeat([0.0, 1.0], [150, 250])
    few = percentile_interval(np.column_stack([sums, np.ones(400)]))
    jitter = 1e-9 * np.arange(400)
    many = percentile_interval(np.column_stack([sums + jitter, np.ones(400)]))
    kept = percentile_interval(np.column_stack([sums + jitter, np.ones(400)]))
    assert few == pytest.approx(stats.binom.ppf([0.025, 0.975], 400, 0.625) / 400, abs=0.005)
    assert many == pytest.approx(few, abs=0.005)
    assert kept.tolist() == many.tolist()


def test_draws_that_are_too_many_to_keep_are_drawn_alike():
    totals = np.column_stack([np.arange(60.0), np.ones(60)])
    kept = resampled_totals(totals, Bootstrap(resamples=200))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evalkit.statistics.ratios._CELLS", 10)
        assert np.array_equal(resampled_totals(totals, Bootstrap(resamples=200)), kept)
