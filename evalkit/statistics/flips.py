"""Samples that a variant gained and lost against its reference, and McNemar's test. Pure.

Q. McNemar, "Note on the sampling error of the difference between correlated proportions or
percentages", *Psychometrika* 12 (1947): of the samples that flipped, were as many gained as lost?
The exact form is a binomial test. It is reported beside a verdict and decides nothing: it asks
whether anything changed, not whether more changed than the budget allows, and it takes samples of
one cluster for independent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evalkit.records import Score
from evalkit.statistics.answers import answers_digest


@dataclass(frozen=True)
class Flips:
    """How many samples changed sides."""

    gained: int
    """The reference had them wrong, and the variant has them right."""
    lost: int
    p_value: float
    """Exact, two-sided, of H0 "a flip is a gain as often as a loss"; 1 without a flip."""


def is_of_shares(score: Score) -> bool:
    """Whether each unit is one sample with a value between 0 and 1: a hit, a miss, or in part."""
    values = score.sums
    return (
        score.kind == "mean"
        and len(values) > 0
        and bool(np.all(score.counts == 1))
        and bool(np.all((values >= 0) & (values <= 1)))
    )


def is_hit_or_miss(score: Score) -> bool:
    """Whether each unit is one sample that was hit or missed."""
    return is_of_shares(score) and bool(np.all((score.sums == 0) | (score.sums == 1)))


def is_same_answer(score: Score, reference: Score) -> bool:
    """Whether two scores come of bit-identical log-likelihoods, sample by sample.

    Equal hits alone prove nothing: two different models agree on many samples.
    """
    answers = answers_digest(score)
    return bool(answers) and answers == answers_digest(reference)


def flips(score: Score, reference: Score) -> Flips | None:
    """What flipped between two scores of the same units, in the same order.

    Returns:
        None where either is not of hits and misses.
    """
    if not (is_hit_or_miss(score) and is_hit_or_miss(reference)):
        return None
    risen = int(np.sum(score.sums > reference.sums))
    fallen = int(np.sum(score.sums < reference.sums))
    gained, lost = (risen, fallen) if score.higher_is_better else (fallen, risen)
    if gained + lost == 0:
        return Flips(0, 0, 1.0)
    from scipy import special  # a quarter of a second, and most pages show no flips

    # A fair coin's two tails are alike. (scipy.stats has the test, and takes long to import.)
    tail = float(special.bdtr(min(gained, lost), gained + lost, 0.5))
    return Flips(gained, lost, min(1.0, 2 * tail))
