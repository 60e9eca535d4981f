"""Tests on hits and misses that stay right where few samples, or none, disagree. Pure.

A normal approximation has nothing to work with where two variants give the same answer to every
sample: its standard error is zero, and any budget is met. Yet no flip in 50 samples is what a true
loss of 5 points shows one time in thirteen. The tests here are on the counts themselves:

- one proportion: Clopper and Pearson's exact tail ("The use of confidence or fiducial limits",
  *Biometrika* 26, 1934), with an effective sample size where samples are clustered (E. L. Korn and
  B. I. Graubard, *Survey Methodology* 24, 1998);
- two paired proportions: the exact tail of gained − lost, the share of discordant pairs put at its
  maximum-likelihood estimate under the hypothesis (T. Tango, "Equivalence test and confidence
  interval for the difference in proportions for the paired-sample design", *Statistics in
  Medicine* 17, 1998, whose score test is this one's large-sample form; estimated p-values: C. J.
  Lloyd, *Australian & New Zealand Journal of Statistics* 50, 2008);
- clusters divide the counts by a design effect first (J. N. K. Rao and A. J. Scott, "A simple
  method for the analysis of clustered binary data", *Biometrics* 48, 1992).
"""

from __future__ import annotations

import bisect
import functools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

if TYPE_CHECKING:
    from collections.abc import Callable

_INFORMATIVE = 10
_ROUNDING = 1e-9
_FAR = 4.0
"""Standard errors within which an interval's end mostly lies."""
_STEPS = 2**28
"""Equal steps that an interval's end is looked for in."""
_REACH = 12.0
"""Standard deviations that the distribution of a sum is computed for: past them lies nothing."""


@dataclass(frozen=True)
class Proportion:
    """Hits among samples; an effect is the share of hits. Not whole where clusters divide them."""

    hits: float
    size: float

    def p_value(self, limit: float, *, sense: int) -> float:
        """One-sided exact p-value of H0 "the share is not past `limit`".

        Args:
            limit: a share.
            sense: +1 where past means above, −1 where it means below.
        """
        if sense < 0:
            return Proportion(self.size - self.hits, self.size).p_value(1.0 - limit, sense=1)
        if limit < 0 or self.hits <= 0:
            return 0.0 if limit < 0 else 1.0
        return float(special.betainc(self.hits, self.size - self.hits + 1, min(limit, 1.0)))

    def divided(self, by: float) -> Proportion:
        """The counts that independent samples of the same information would show."""
        return Proportion(self.hits / by, self.size / by)

    @property
    def simple_error(self) -> float:
        """The standard error that independent samples have."""
        share = self.hits / self.size
        return math.sqrt(share * (1 - share) / self.size)

    @property
    def planning_error(self) -> float:
        """A standard error that is not zero where nothing was missed: one hit and one miss more."""
        size = self.size + 2
        share = (self.hits + 1) / size
        return math.sqrt(share * (1 - share) / size)


@dataclass(frozen=True)
class Pairs:
    """Paired samples that a change gained and lost; the effect is (gained − lost)/size.

    For values between 0 and 1 the sums of rises and of falls: of all variables with these means,
    those that jump the whole way have the largest variance.
    """

    gained: float
    lost: float
    size: float
    unit: float = 1.0
    """What the limit is in: 1, or the reference's mean where effects are relative to it."""

    def p_value(self, limit: float, *, sense: int) -> float:
        """One-sided p-value of H0 "the effect is not past `limit`".

        Args:
            limit: a difference of means, divided by `unit`.
            sense: +1 where past means above, −1 where it means below.
        """
        if sense < 0:
            return replace(self, gained=self.lost, lost=self.gained).p_value(-limit, sense=1)
        bound = limit * self.unit
        if bound < -1 or bound >= 1:
            return 0.0 if bound < -1 else 1.0
        return _difference_tail(self.gained, self.lost, self.size, bound)

    def divided(self, by: float) -> Pairs:
        """The counts that independent samples of the same information would show."""
        return replace(self, gained=self.gained / by, lost=self.lost / by, size=self.size / by)

    @property
    def simple_error(self) -> float:
        """The standard error that independent samples have, of values that jump the whole way."""
        moved = (self.gained + self.lost) / self.size
        mean = (self.gained - self.lost) / self.size
        return math.sqrt(max(0.0, moved - mean**2) / self.size) / self.unit

    @property
    def planning_error(self) -> float:
        """A standard error that is not zero without a flip: one gained and one lost more.

        D. G. Bonett and R. M. Price, "Adjusted Wald confidence interval for a difference of
        binomial proportions based on paired data", *Journal of Educational and Behavioral
        Statistics* 37 (2012).
        """
        size = self.size + 2
        gained, lost = (self.gained + 1) / size, (self.lost + 1) / size
        return math.sqrt((gained + lost - (gained - lost) ** 2) / size) / self.unit


Counts = Proportion | Pairs


def independent(
    counts: Counts, *, stderr: float | None, informative: int, effective_clusters: float
) -> Counts:
    """Divide counts of clustered samples by their design effect.

    It is the clustered variance over that of independent samples, at least 1. Where fewer than ten
    clusters hold anything that differs, the variance says nothing, and the worst is assumed: each
    cluster tells as much as one sample.

    Args:
        counts: of samples.
        stderr: of the effect, clustered.
        informative: clusters that hold a flip; of one proportion, those with hits or those with
            misses, whichever are fewer.
        effective_clusters: what the clusters are worth in even ones.
    """
    simple = counts.simple_error
    if stderr is None or informative < _INFORMATIVE or simple == 0:
        return counts.divided(counts.size / effective_clusters)
    return counts.divided(max(1.0, (stderr / simple) ** 2))


@functools.lru_cache(maxsize=1024)
def ends(counts: Counts, alpha: float) -> tuple[float, float]:
    """The limits that the two one-sided tests at `alpha` do not reject: an interval.

    Args:
        counts: what was seen.
        alpha: level of each side, 0.025 for a 95 % interval.
    """
    if isinstance(counts, Proportion):
        lowest, highest, seen = 0.0, 1.0, counts.hits / counts.size
    else:
        highest = 1.0 / counts.unit
        lowest, seen = -highest, (counts.gained - counts.lost) / counts.size / counts.unit

    def past(limit: float, sense: int) -> float:
        return counts.p_value(limit, sense=sense) - alpha

    def end(outermost: float, sense: int) -> float:
        if past(seen, sense) <= 0:
            return seen
        near = seen - sense * _FAR * counts.planning_error
        for start in (near, outermost):
            if sense * (start - outermost) >= 0 and past(start, sense) < 0:
                return _first_past(lambda limit: past(limit, sense) > 0, start, seen)
        return outermost

    return end(lowest, 1), end(highest, -1)


def _first_past(is_past: Callable[[float], bool], start: float, end: float) -> float:
    """Where on the way from `start` to `end` it is first past, by halving.

    Root finders need fewer steps, but importing scipy.optimize takes longer than drawing a report.
    """

    def at(step: int) -> float:
        return start + (end - start) * step / _STEPS

    return at(bisect.bisect_left(range(_STEPS), True, key=lambda step: is_past(at(step))))


def _difference_tail(gained: float, lost: float, size: float, bound: float) -> float:
    """P(D ≥ gained − lost) for D the sum of `size` independent values in −1, 0, 1 of mean `bound`.

    The distribution of D is had from its characteristic function by one Fourier transform. Counts
    that a design effect divided are rounded so that the tail is larger, never smaller.
    """
    samples, seen = max(1, math.floor(size + _ROUNDING)), math.floor(gained - lost + _ROUNDING)
    falls = _restricted_falls(gained, lost, size, bound)
    rises = falls + bound
    spread = math.sqrt(samples * max(0.0, rises + falls - bound**2))
    reach = min(samples, math.ceil(_REACH * spread) + 50)
    centre = round(samples * bound)
    first, last = max(centre - reach, -samples), min(centre + reach, samples)
    if seen > last:
        return 0.0
    points = 1 << (last - first).bit_length()
    angles = 2j * np.pi * np.arange(points) / points
    turned = (rises * np.exp(angles) + falls * np.exp(-angles) + (1 - rises - falls)) ** samples
    mass = np.maximum(np.fft.fft(turned).real / points, 0.0)
    differences = np.arange(max(seen, first), last + 1)
    return float(min(1.0, mass[differences % points].sum()))


def _restricted_falls(gained: float, lost: float, size: float, bound: float) -> float:
    """The maximum-likelihood share of losses where gains exceed them by `bound` (Tango 1998)."""
    linear = gained + lost - bound * (2 * size + lost - gained)
    root = math.sqrt(max(0.0, linear**2 + 8 * size * lost * bound * (1 - bound)))
    return min(max((linear + root) / (4 * size), -bound, 0.0), (1 - bound) / 2)
