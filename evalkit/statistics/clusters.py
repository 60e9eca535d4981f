"""Paired, clustered comparison of ratio estimators, and the tests that judge it. Pure.

Every metric here is a ratio R = Σs/Σn over units (documents or windows): for perplexity s is a
document's summed loss in nats and n its scored tokens, for accuracy-like metrics s is the sum of
outcomes and n how many there were. Units of one cluster are not independent; clusters are.

Sources, by what they are used for:

- ratio estimator and its linearised variance: W. G. Cochran, *Sampling Techniques*, 3rd ed.,
  Wiley 1977, chapter 6; linearisation of other functions of totals: D. A. Binder, "On the
  variances of asymptotically normal estimators from complex surveys", *International Statistical
  Review* 51 (1983);
- cluster-robust variance with each cluster's leverage, CV3: J. G. MacKinnon, M. Ø. Nielsen and
  M. D. Webb, "Cluster-robust inference: a guide to empirical practice", *Journal of Econometrics*
  232 (2023);
- effective number of clusters: L. Kish, *Survey Sampling*, Wiley 1965; as degrees of freedom:
  A. V. Carter, K. T. Schnepel and D. G. Steigerwald, "Asymptotic behavior of a t-test robust to
  cluster heterogeneity", *Review of Economics and Statistics* 99 (2017);
- skewness: `evalkit.statistics.skewness` and `evalkit.statistics.comparisons`; hits and misses:
  `evalkit.statistics.proportions`;
- cluster bootstrap: A. C. Davison and D. V. Hinkley, *Bootstrap Methods and their Application*,
  Cambridge 1997, section 3.8;
- step-down adjustment: S. Holm, "A simple sequentially rejective multiple test procedure",
  *Scandinavian Journal of Statistics* 6 (1979).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from evalkit.statistics import ratios
from evalkit.statistics.comparisons import (
    ALPHA,
    FEW_CLUSTERS,
    Comparison,
    exceedance_p_value,
    with_interval,
    with_training_spread,
)
from evalkit.statistics.power import VisibleChange, clusters_to_settle, visible_change
from evalkit.statistics.proportions import Counts, Pairs, Proportion, independent
from evalkit.statistics.ratios import Bootstrap, Float64s, Scale
from evalkit.statistics.skewness import expected_skewness, sample_skewness

__all__ = [
    "ALPHA",
    "FEW_CLUSTERS",
    "Bootstrap",
    "Comparison",
    "Scale",
    "VisibleChange",
    "clusters_to_settle",
    "exceedance_p_value",
    "holm",
    "paired_ratio",
    "ratio_standard_error",
    "single_ratio",
    "visible_change",
    "with_training_spread",
]

_DEFAULT_BOOTSTRAP = Bootstrap()


def ratio_standard_error(sums: Float64s, counts: Float64s, clusters: Sequence[str]) -> float | None:
    """Standard error of R = Σsums/Σcounts, clustered.

    With e_c = Σ_{i in c} (s_i − R n_i) and the leverage h_c = n_c/Σn,
    SE = √((G − 1)/G · Σ (e_c/(1 − h_c))²) / Σn: the delete-one-cluster jackknife about R. Where
    clusters are equally large it is Cochran's linearised √(G/(G − 1) · Σ e_c²)/Σn; where they are
    not, it does not forget how far a large one pulls R towards itself. For perplexity = exp(R)
    multiply by the perplexity.

    Args:
        sums: numerators, one a unit; shape (units,).
        counts: denominators, same shape, not negative.
        clusters: the cluster of each unit.

    Returns:
        The standard error in the unit of R, or None where fewer than two clusters count anything.

    Raises:
        ValueError: unequal lengths, values that are not finite, or nothing counted.
    """
    return single_ratio(sums, counts, clusters, bootstrap=None).stderr


def single_ratio(
    sums: Float64s,
    counts: Float64s,
    clusters: Sequence[str],
    *,
    shares: bool = False,
    bootstrap: Bootstrap | None = _DEFAULT_BOOTSTRAP,
) -> Comparison:
    """R = Σsums/Σcounts with its interval, for limits that need no reference.

    Args:
        sums: numerators, one a unit; shape (units,).
        counts: denominators, same shape, not negative.
        clusters: the cluster of each unit.
        shares: each unit is one sample, of a value between 0 and 1; hits and misses are then
            judged by exact tests (`evalkit.statistics.proportions`).
        bootstrap: how to draw the cross-check; None leaves it out.

    Raises:
        ValueError: unequal lengths, values that are not finite, or nothing counted.
    """
    totals = ratios.cluster_totals([sums, counts], clusters)
    effect = float(ratios.ratios(totals.sum(axis=0))[0])
    plain = _comparison(effect, ratios.influence(totals, 0), totals, len(sums))
    if bootstrap is not None:
        draws = ratios.ratios(ratios.resampled_totals(totals, bootstrap))[:, 0]
        plain = _cross_checked(plain, draws)
    if shares and _are_whole(sums):
        hit = Proportion(float(sums.sum()), float(len(sums)))
        mixed = min(int((totals[:, 0] > 0).sum()), int((totals[:, 0] < totals[:, 1]).sum()))
        plain = _with_counts(plain, hit, informative=mixed)
    return with_interval(plain)


def paired_ratio(
    sums_a: Float64s,
    counts_a: Float64s,
    sums_b: Float64s,
    counts_b: Float64s,
    clusters: Sequence[str],
    *,
    scale: Scale = "difference",
    shares: bool = False,
    bootstrap: Bootstrap | None = _DEFAULT_BOOTSTRAP,
) -> Comparison:
    """Compare A with its reference B on the same units, unit i of one being unit i of the other.

    The effect is a function g of the two ratios: R_A − R_B ("difference"), exp R_A − exp R_B
    ("exp_difference", for budgets in units of perplexity), R_A/R_B − 1 ("relative"). Its variance
    is linearised in both ratios at once (Binder 1983): cluster c contributes
    z_c = ∂g/∂R_A · e_cA/(N_A(1 − h_cA)) + ∂g/∂R_B · e_cB/(N_B(1 − h_cB)), and
    SE² = (G − 1)/G · Σ z_c². Pairing is in the sum: what A and B share on a document cancels
    before squaring.

    Args:
        sums_a: numerators of A, one a unit; shape (units,).
        counts_a: denominators of A, same shape.
        sums_b: numerators of the reference, same units in the same order.
        counts_b: denominators of the reference.
        clusters: the cluster of each unit.
        scale: what the effect is measured in.
        shares: each unit is one sample, of values between 0 and 1: then equal sums do not make two
            sides identical, and hits and misses are judged by exact tests.
        bootstrap: how to draw the cross-check; None leaves it out.

    Raises:
        ValueError: unequal lengths, values that are not finite, nothing counted, or a "relative"
            effect on a reference that is not above zero.
    """
    totals = ratios.cluster_totals([sums_a, counts_a, sums_b, counts_b], clusters)
    both = ratios.ratios(totals.sum(axis=0))
    if scale == "relative" and both[1] <= 0:
        raise ValueError(f"a relative effect needs a reference above zero, not {both[1]:g}")
    by_a, by_b = ratios.gradient(both, scale)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite has no interval
        influence = by_a * ratios.influence(totals, 0) + by_b * ratios.influence(totals, 1)
    plain = _comparison(float(ratios.effect(both, scale)), influence, totals, len(sums_a))
    if bootstrap is not None:
        draws = ratios.ratios(ratios.resampled_totals(totals, bootstrap))
        plain = _cross_checked(plain, ratios.effect(draws, scale))
    if shares:
        unit = float(both[1]) if scale == "relative" else 1.0
        return with_interval(_with_pairs(plain, sums_a, sums_b, totals, unit))
    identical = np.array_equal(sums_a, sums_b) and np.array_equal(counts_a, counts_b)
    return with_interval(replace(plain, identical=bool(identical)))


def _comparison(effect: float, influence: Float64s, totals: Float64s, n_units: int) -> Comparison:
    """Everything but the interval; `influence` is not finite where it cannot be estimated."""
    size = len(totals)
    counts = totals[:, 1::2].sum(axis=1)
    effective = float(counts.sum() ** 2 / (counts @ counts))
    with np.errstate(over="ignore", invalid="ignore"):
        squares = float(influence @ influence)
    estimable = size > 1 and math.isfinite(squares)
    return Comparison(
        effect=effect,
        stderr=math.sqrt((size - 1) / size * squares) if estimable else None,
        df=effective - 1,
        low=None,
        high=None,
        n_units=n_units,
        n_clusters=size,
        effective_clusters=effective,
        skewness=sample_skewness(influence) if estimable else 0.0,
        expected_skewness=expected_skewness(influence, counts) if estimable else 0.0,
    )


def _cross_checked(comparison: Comparison, draws: Float64s) -> Comparison:
    """The comparison with the percentile interval of bootstrap draws, shape (resamples,)."""
    if comparison.stderr is None or not len(draws):
        return comparison
    low, high = np.quantile(draws, [ALPHA, 1 - ALPHA])
    return replace(comparison, bootstrap_low=float(low), bootstrap_high=float(high))


def _are_whole(sums: Float64s) -> bool:
    """Whether every sample was hit or missed, none in part."""
    return bool(np.all((sums == 0) | (sums == 1)))


def _with_pairs(
    plain: Comparison, sums_a: Float64s, sums_b: Float64s, totals: Float64s, unit: float
) -> Comparison:
    """Judge values between 0 and 1 by what rose and fell, where that is the better test.

    Hits and misses are; other values are where so few of them moved that their spread is not known.
    """
    rises = np.maximum(sums_a - sums_b, 0.0)
    falls = np.maximum(sums_b - sums_a, 0.0)
    moved = int((totals[:, 0] != totals[:, 2]).sum())
    hits = _are_whole(sums_a) and _are_whole(sums_b)
    if not hits and moved >= FEW_CLUSTERS:
        return plain
    pairs = Pairs(float(rises.sum()), float(falls.sum()), float(len(sums_a)), unit)
    # A relative effect's reference is sampled too, which the counts take no notice of.
    return _with_counts(plain, pairs, informative=moved, alone=hits and unit == 1.0)


def _with_counts(
    plain: Comparison, counts: Counts, *, informative: int, alone: bool = True
) -> Comparison:
    """Judge by counts, alone where each sample is its own cluster."""
    single = plain.n_clusters == plain.n_units
    if not single:
        counts = independent(
            counts,
            stderr=plain.stderr,
            informative=informative,
            effective_clusters=plain.effective_clusters,
        )
    return replace(plain, counts=counts, counts_alone=single and alone)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Holm's step-down adjusted p-values, in the order given (Holm 1979).

    The k-th smallest of m becomes the largest of (m − j + 1)·p_(j) over j ≤ k, at most 1.
    Rejecting where the adjusted value is ≤ α keeps the chance of any false rejection ≤ α, whatever
    the dependence.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, (len(p_values) - rank) * p_values[index])
        adjusted[index] = min(1.0, largest)
    return tuple(adjusted)
