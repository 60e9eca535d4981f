"""An effect with its interval and its tests, from the few figures that a comparison leaves. Pure.

The interval is Student's, made longer on the side of the longer tail. With T = (effect − truth)/SE
and κ the effect's skewness, skewness moves T's quantile q by κ(1 + 2q²)/6 (N. J. Johnson, "Modified
t tests and confidence intervals for asymmetrical populations", *JASA* 73, 1978; P. Hall, "On the
removal of skewness by transformation", *JRSS B* 54, 1992; L. Chen, "Testing the mean of skewed
distributions", *JASA* 90, 1995). But a sample of a skewed population shows too little of the
skewness, and least of it where it errs most: when the rare bad document is missing. So κ is the
larger of two estimates, one of which learns from short clusters too
(`evalkit.statistics.skewness`); and the correction is multiplied by 2 + 250/G_eff and bends off at
1 + 30/G_eff standard errors. These figures are calibrated by simulation (docs/statistics.md), they
are not theory. The shorter side is left at Student's: what theory would take off there would be
lost again where tails are long on both sides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from scipy import special

from evalkit.statistics.proportions import Counts, ends

ALPHA = 0.025
"""Level of every one-sided test; the drawn interval is the two-sided 95 % one."""
FEW_CLUSTERS = 20.0
"""Under this many effective clusters an interval alone passes nothing."""
_SKEW_FACTOR = 2.0
_SKEW_FACTOR_OF_FEW = 250.0
_SKEW_BEND = 1.0
_SKEW_BEND_OF_FEW = 30.0
_LEAST_DF = 0.5


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
    df: float
    """Degrees of freedom of Student's t: G_eff − 1, G_eff being `effective_clusters`."""
    low: float | None
    """Two-sided 95 % interval: what the two one-sided tests at 2.5 % do not reject."""
    high: float | None
    n_units: int
    n_clusters: int
    """G: clusters in which something was counted."""
    effective_clusters: float
    """(Σn_c)²/Σn_c² over the clusters' counts: G when they are even, less when they are not."""
    identical: bool = False
    """Both sides have bit-identical sums and counts, of values that two different models would
    not share by chance."""
    skewness: float = 0.0
    """κ = Σz³/(Σz²)^(3/2) of the clusters' influence: their skewness over √G; its sign is that of
    the longer tail."""
    expected_skewness: float = 0.0
    """κ if effects have one shape at all lengths: the same where clusters are even."""
    counts: Counts | None = None
    """Of hits and misses: what the exact tests are made on, divided by the design effect."""
    counts_alone: bool = False
    """The exact test is the whole test; else the larger of the two p-values decides."""
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

    @property
    def planning_error(self) -> float | None:
        """The standard error to plan with: not zero where hits and misses happened to agree."""
        if self.stderr is None or self.counts is None:
            return self.stderr
        return max(self.stderr, self.counts.planning_error)


def student_quantile(comparison: Comparison, probability: float) -> float:
    """The quantile of the comparison's Student distribution."""
    return float(special.stdtrit(max(comparison.df, _LEAST_DF), probability))


def skewness_margin(comparison: Comparison, *, sense: int) -> float:
    """What the interval's upper (+1) or lower (−1) margin gains for skewness, in standard errors.

    Zero on the side of the shorter tail; above zero on both where the two estimates of skewness
    have different signs. See the module's docstring.
    """
    skewness = max(sense * comparison.skewness, sense * comparison.expected_skewness)
    if skewness <= 0:
        return 0.0
    theory = skewness * (1 + 2 * student_quantile(comparison, ALPHA) ** 2) / 6
    factor = _SKEW_FACTOR + _SKEW_FACTOR_OF_FEW / comparison.effective_clusters
    bend = _SKEW_BEND + _SKEW_BEND_OF_FEW / comparison.effective_clusters
    return bend * math.tanh(factor * theory / bend)


def exceedance_p_value(comparison: Comparison, limit: float, *, sense: int) -> float | None:
    """One-sided p-value of H0 "the effect is not past `limit`".

    It is at most 0.025 exactly where the 95 % interval lies past the limit. Where hits and misses
    are clustered it is the larger of Student's and the exact one.

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
    p_values = []
    if comparison.counts is not None and math.isfinite(limit):
        p_values.append(comparison.counts.p_value(limit, sense=sense))
    if not p_values or not comparison.counts_alone:
        p_values.append(_student_p_value(comparison, comparison.stderr, limit, sense))
    return max(p_values)


def with_interval(comparison: Comparison) -> Comparison:
    """The comparison with the 95 % interval that its tests give."""
    if comparison.stderr is None:
        return replace(comparison, low=None, high=None)
    lows, highs = [], []
    if comparison.counts is not None:
        low, high = ends(comparison.counts, ALPHA)
        lows.append(low)
        highs.append(high)
    if not lows or not comparison.counts_alone:
        quantile = student_quantile(comparison, 1 - ALPHA)
        below, above = (quantile + skewness_margin(comparison, sense=sense) for sense in (-1, 1))
        lows.append(comparison.effect - below * comparison.stderr)
        highs.append(comparison.effect + above * comparison.stderr)
    return replace(comparison, low=min(lows), high=max(highs))


def with_training_spread(
    comparison: Comparison, *, spread: float, n_seeds: int, averaged: int
) -> Comparison:
    """Widen a comparison for what another training seed would have changed.

    The seeds' variance is added to the documents', and the degrees of freedom are those of the sum
    (F. E. Satterthwaite, "An approximate distribution of estimates of variance components",
    *Biometrics Bulletin* 2, 1946). The skewness of the sum is what the documents leave of theirs.

    Args:
        comparison: what the documents say.
        spread: standard deviation of the effect between seeds, on the comparison's scale.
        n_seeds: seeds that `spread` was estimated from, at least two.
        averaged: seeds whose effects the comparison's effect is the mean of; 1 for a single one.

    Raises:
        ValueError: a negative spread, fewer than two seeds, or nothing averaged.
    """
    if spread < 0 or n_seeds < 2 or averaged < 1:
        raise ValueError(f"spread {spread:g} of {n_seeds} seeds, {averaged} averaged")
    if comparison.stderr is None or spread == 0:
        return comparison
    documents, training = _document_error(comparison) ** 2, spread**2 / averaged
    stderr = math.sqrt(documents + training)
    left = (math.sqrt(documents) / stderr) ** 3
    df = stderr**4 / (documents**2 / max(comparison.df, _LEAST_DF) + training**2 / (n_seeds - 1))
    widened = replace(
        comparison,
        stderr=stderr,
        df=df,
        identical=False,
        counts_alone=False,
        skewness=comparison.skewness * left,
        expected_skewness=comparison.expected_skewness * left,
    )
    return with_interval(widened)


def _document_error(comparison: Comparison) -> float:
    """The standard error whose Student interval is no narrower than one by exact tests."""
    error = comparison.planning_error or 0.0
    if comparison.counts is None or comparison.low is None or comparison.high is None:
        return error
    half = (comparison.high - comparison.low) / 2
    return max(error, half / student_quantile(comparison, 1 - ALPHA))


def _student_p_value(comparison: Comparison, stderr: float, limit: float, sense: int) -> float:
    past = sense * (comparison.effect - limit)
    if stderr == 0 or math.isinf(past):
        return 0.0 if past > 0 else 1.0
    # The whole margin is stretched, so that it grows with the smaller levels that Holm asks for.
    quantile = student_quantile(comparison, 1 - ALPHA)
    stretch = 1.0 + skewness_margin(comparison, sense=-sense) / quantile
    return float(special.stdtr(max(comparison.df, _LEAST_DF), -past / stderr / stretch))
