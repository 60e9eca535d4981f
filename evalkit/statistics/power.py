"""What a gate could see with data like these, and what would settle it. Pure.

Planning figures: the standard error, the skewness and the effective number of clusters are taken
as they were estimated, and T as Student's.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, replace

from scipy import special

from evalkit.statistics.comparisons import (
    ALPHA,
    FEW_CLUSTERS,
    Comparison,
    skewness_margin,
    student_quantile,
)

POWER = 0.8
"""The chance with which a planned gate should find what there is to find."""
_TOO_CLOSE = 100


@dataclass(frozen=True)
class VisibleChange:
    """What a gate on data like these could see; on the comparison's scale."""

    regression: float | None
    """The smallest true effect that is called REGRESSED with 80 % power; None where no standard
    error can be estimated."""
    passes_unchanged: bool
    """An unchanged model PASSes with 80 % power."""
    least_budget: float | None
    """The tightest limit under which an unchanged model PASSes with 80 % power; None where
    nothing passes, for want of clusters."""


def visible_change(
    comparison: Comparison, *, limit: float, sense: int, unchanged: float = 0.0
) -> VisibleChange:
    """The smallest regression that a gate would call one, and the budget that no change needs.

    One gate is reckoned with: among others Holm's adjustment asks for more. "Unchanged" is a model
    whose true effect is `unchanged` and that scatters from document to document as the compared
    pair does; one that does not change at all scatters less.

    Args:
        comparison: a pilot, or the last run.
        limit: the worst allowed effect.
        sense: +1 where more is worse, −1 where less is.
        unchanged: the effect of an unchanged model: 0 for a difference, the value itself for an
            absolute limit.
    """
    stderr = comparison.planning_error
    if stderr is None:
        return VisibleChange(None, False, None)
    if comparison.n_units == 0:
        return VisibleChange(limit, sense * (limit - unchanged) >= 0, unchanged)
    plain = student_quantile(comparison, 1 - ALPHA) + student_quantile(comparison, POWER)
    to_regress = plain + skewness_margin(comparison, sense=-sense)
    to_pass = plain + skewness_margin(comparison, sense=sense)
    regression = limit + sense * to_regress * stderr
    if comparison.few_clusters:
        return VisibleChange(regression, False, None)
    least = unchanged + sense * to_pass * stderr
    return VisibleChange(regression, sense * (limit - least) >= 0, least)


def clusters_to_settle(comparison: Comparison, limit: float) -> int | None:
    """How many clusters like these would settle it, if the effect stays as seen.

    The least G′ for which (z_0.975 + z_0.8 + m)·SE·√(G/G′) ≤ |effect − limit|, the normal
    approximation for 80 % power at one-sided 2.5 %, with m what the interval gains for skewness on
    the side of the limit: it shrinks as clusters are added. Never under the clusters that
    `FEW_CLUSTERS` effective ones take, nor under one more than there are.

    Returns:
        G′, or None where it is past 100·G or no standard error can be estimated: too close to the
        budget to settle.
    """
    distance = abs(comparison.effect - limit)
    stderr = comparison.planning_error
    if stderr is None or distance == 0:
        return None
    size = comparison.n_clusters
    sense = 1 if comparison.effect < limit else -1
    quantiles = float(special.ndtri(1 - ALPHA) + special.ndtri(POWER))

    def settled(clusters: int) -> bool:
        margin = skewness_margin(_grown(comparison, clusters), sense=sense)
        return (quantiles + margin) * stderr * math.sqrt(size / clusters) <= distance

    candidates = range(1, _TOO_CLOSE * size + 1)
    found = bisect_left(candidates, True, key=settled)
    if found == len(candidates):
        return None
    enough_even = FEW_CLUSTERS * size / comparison.effective_clusters
    return max(candidates[found], math.ceil(enough_even), size + 1)


def _grown(comparison: Comparison, clusters: int) -> Comparison:
    """The comparison as so many clusters would leave its skewness and degrees of freedom."""
    factor = clusters / comparison.n_clusters
    return replace(
        comparison,
        n_clusters=clusters,
        skewness=comparison.skewness / math.sqrt(factor),
        expected_skewness=comparison.expected_skewness / math.sqrt(factor),
        effective_clusters=comparison.effective_clusters * factor,
        df=max(1.0, comparison.effective_clusters * factor - 1),
    )
