"""Paired, clustered comparison of ratio estimators, and the tests that judge it. Pure.

Every metric here is a ratio R = Σs/Σn over units (documents or windows): for perplexity s is a
document's summed loss in nats and n its scored tokens, for accuracy-like metrics s is the sum of
outcomes and n how many there were. Units of one cluster are not independent; clusters are.

Sources, by what they are used for:

- ratio estimator and its linearised variance: W. G. Cochran, *Sampling Techniques*, 3rd ed.,
  Wiley 1977, chapter 6; linearisation of other functions of totals: D. A. Binder, "On the
  variances of asymptotically normal estimators from complex surveys", *International Statistical
  Review* 51 (1983);
- cluster-robust variance with Student t on G − 1 degrees of freedom: A. C. Cameron and
  D. L. Miller, "A practitioner's guide to cluster-robust inference", *Journal of Human Resources*
  50 (2015);
- cluster bootstrap: A. C. Davison and D. V. Hinkley, *Bootstrap Methods and their Application*,
  Cambridge 1997, section 3.8;
- effective number of clusters: L. Kish, *Survey Sampling*, Wiley 1965;
- step-down adjustment: S. Holm, "A simple sequentially rejective multiple test procedure",
  *Scandinavian Journal of Statistics* 6 (1979).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from evalkit import ratios
from evalkit.ratios import Bootstrap, Float64s, Scale

__all__ = [
    "ALPHA",
    "FEW_CLUSTERS",
    "Bootstrap",
    "Comparison",
    "Scale",
    "clusters_to_settle",
    "exceedance_p_value",
    "holm",
    "paired_ratio",
    "ratio_standard_error",
    "single_ratio",
]

ALPHA = 0.025
"""Level of every one-sided test; the drawn interval is the two-sided 95 % one."""
FEW_CLUSTERS = 20.0
"""Under this many effective clusters an interval alone passes nothing."""
_POWER = 0.8
_TOO_CLOSE = 100
_DEFAULT_BOOTSTRAP = Bootstrap()


@dataclass(frozen=True)
class Comparison:
    """An effect with its interval.

    All of `effect`, `stderr` and the limits are on one scale: nats per token or the difference of
    means ("difference"), the difference of perplexities ("exp_difference"), or a fraction of the
    reference ("relative").
    """

    effect: float
    stderr: float | None
    """None where a single cluster leaves no spread to estimate from."""
    df: int
    """Degrees of freedom, G − 1."""
    low: float | None
    """Two-sided 95 % interval, Student t."""
    high: float | None
    n_units: int
    n_clusters: int
    """G: clusters in which something was counted."""
    effective_clusters: float
    """(Σn_c)²/Σn_c² over the clusters' counts: G when they are even, less when they are not."""
    identical: bool = False
    """Both sides have bit-identical sums and counts."""
    bootstrap_low: float | None = None
    """Two-sided 95 % percentile interval of the cluster bootstrap, a cross-check."""
    bootstrap_high: float | None = None

    @property
    def few_clusters(self) -> bool:
        """Whether the intervals rest on too few effective clusters to pass anything."""
        return self.effective_clusters < FEW_CLUSTERS * (1 - 1e-12)

    @property
    def exact(self) -> bool:
        """Whether the effect is known without sampling error, so that no statistics are needed."""
        return self.identical or self.n_units == 0


def ratio_standard_error(sums: Float64s, counts: Float64s, clusters: Sequence[str]) -> float | None:
    """Linearised standard error of R = Σsums/Σcounts, clustered.

    With e_c = Σ_{i in c} (s_i − R n_i), SE = √(G/(G−1) · Σ e_c²) / Σn (Cochran 1977, chapter 6,
    with clusters in the place of units). For perplexity = exp(R) multiply by the perplexity.

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
    bootstrap: Bootstrap | None = _DEFAULT_BOOTSTRAP,
) -> Comparison:
    """R = Σsums/Σcounts with its interval, for limits that need no reference.

    Args:
        sums: numerators, one a unit; shape (units,).
        counts: denominators, same shape, not negative.
        clusters: the cluster of each unit.
        bootstrap: how to draw the cross-check; None leaves it out.

    Raises:
        ValueError: unequal lengths, values that are not finite, or nothing counted.
    """
    totals = ratios.cluster_totals([sums, counts], clusters)
    effect = float(ratios.ratios(totals.sum(axis=0))[0])
    resampled = None
    if bootstrap is not None:
        resampled = ratios.ratios(ratios.resampled_totals(totals, bootstrap))[:, 0]
    plain = _comparison(effect, ratios.influence(totals, 0), totals, resampled)
    return replace(plain, n_units=len(sums))


def paired_ratio(
    sums_a: Float64s,
    counts_a: Float64s,
    sums_b: Float64s,
    counts_b: Float64s,
    clusters: Sequence[str],
    *,
    scale: Scale = "difference",
    bootstrap: Bootstrap | None = _DEFAULT_BOOTSTRAP,
) -> Comparison:
    """Compare A with its reference B on the same units, unit i of one being unit i of the other.

    The effect is a function g of the two ratios: R_A − R_B ("difference"), exp R_A − exp R_B
    ("exp_difference", for budgets in units of perplexity), R_A/R_B − 1 ("relative"). Its variance
    is linearised in both ratios at once (Binder 1983): cluster c contributes
    z_c = ∂g/∂R_A · e_cA/N_A + ∂g/∂R_B · e_cB/N_B, and SE² = G/(G−1) · Σ z_c². Pairing is in the
    sum: what A and B share on a document cancels before squaring.

    Args:
        sums_a: numerators of A, one a unit; shape (units,).
        counts_a: denominators of A, same shape.
        sums_b: numerators of the reference, same units in the same order.
        counts_b: denominators of the reference.
        clusters: the cluster of each unit.
        scale: what the effect is measured in.
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
    influence = by_a * ratios.influence(totals, 0) + by_b * ratios.influence(totals, 1)
    resampled = None
    if bootstrap is not None:
        resampled = ratios.effect(ratios.ratios(ratios.resampled_totals(totals, bootstrap)), scale)
    plain = _comparison(float(ratios.effect(both, scale)), influence, totals, resampled)
    identical = np.array_equal(sums_a, sums_b) and np.array_equal(counts_a, counts_b)
    return replace(plain, n_units=len(sums_a), identical=bool(identical))


def _comparison(
    effect: float, influence: Float64s, totals: Float64s, resampled: Float64s | None
) -> Comparison:
    size = len(totals)
    counts = totals[:, 1::2].sum(axis=1)
    stderr = low = high = bootstrap_low = bootstrap_high = None
    if size > 1:
        stderr = math.sqrt(size / (size - 1) * float(influence @ influence))
        margin = float(special.stdtrit(size - 1, 1 - ALPHA)) * stderr
        low, high = effect - margin, effect + margin
    if size > 1 and resampled is not None and len(resampled):
        limits = np.quantile(resampled, [ALPHA, 1 - ALPHA])
        bootstrap_low, bootstrap_high = float(limits[0]), float(limits[1])
    return Comparison(
        effect=effect,
        stderr=stderr,
        df=size - 1,
        low=low,
        high=high,
        n_units=size,
        n_clusters=size,
        effective_clusters=float(counts.sum() ** 2 / (counts @ counts)),
        bootstrap_low=bootstrap_low,
        bootstrap_high=bootstrap_high,
    )


def exceedance_p_value(comparison: Comparison, limit: float, *, sense: int) -> float | None:
    """One-sided p-value of H0 "the effect is not past `limit`".

    With few clusters the Student distribution has G_eff − 1 degrees of freedom in place of G − 1
    (at least a half): a handful of large clusters among many small ones is judged as a handful.

    Args:
        comparison: the effect, with a standard error.
        limit: on the comparison's scale.
        sense: +1 where past means above, −1 where it means below.

    Returns:
        The probability under H0 of an effect at least this far past the limit; None without a
        standard error.
    """
    if comparison.stderr is None:
        return None
    past = sense * (comparison.effect - limit)
    if comparison.stderr == 0 or math.isinf(past):
        return 0.0 if past > 0 else 1.0
    df = comparison.effective_clusters - 1 if comparison.few_clusters else float(comparison.df)
    return float(special.stdtr(max(df, 0.5), -past / comparison.stderr))


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


def clusters_to_settle(comparison: Comparison, limit: float) -> int | None:
    """How many clusters like these would settle it, if the effect stays as seen.

    G′ = G·((z_0.975 + z_0.8)·SE/|effect − limit|)², the normal approximation for 80 % power at
    one-sided 2.5 %; never under the clusters that `FEW_CLUSTERS` effective ones take, nor under
    one more than there are.

    Returns:
        G′, or None where it is past 100·G or no standard error can be estimated: too close to the
        budget to settle.
    """
    distance = abs(comparison.effect - limit)
    if comparison.stderr is None or distance == 0:
        return None
    quantiles = float(special.ndtri(1 - ALPHA) + special.ndtri(_POWER))
    wanted = comparison.n_clusters * (quantiles * comparison.stderr / distance) ** 2
    if wanted > _TOO_CLOSE * comparison.n_clusters:
        return None
    enough_even = FEW_CLUSTERS * comparison.n_clusters / comparison.effective_clusters
    return max(math.ceil(wanted), math.ceil(enough_even), comparison.n_clusters + 1)
