"""What a gate tests: two comparable scores and a budget become an effect and its limit. Pure.

The effect is measured where the budget is a constant:

| metric | budget | effect | limit |
|---|---|---|---|
| perplexity | relative, b | Δ = ln PPL_A − ln PPL_B, nats per token | ln(1 + b) |
| perplexity | absolute, b | PPL_A − PPL_B, both sides sampled (delta method) | b |
| mean | relative, b | A/B − 1 (delta method) | b |
| mean | points or absolute, b | A − B | b |
| perplexity | `min`, `max` | ln PPL_A | ln of it |
| mean | `min`, `max` | A | it |

An absolute budget on a perplexity is not converted with the reference's value, as if that were
known: the reference is as sampled as the variant is, and exp Δ − 1 = b/PPL_B would make the limit
itself random. A negative budget demands an improvement and needs nothing special.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from evalkit.records import Budget, Gate, Score
from evalkit.statistics.clusters import (
    Bootstrap,
    Comparison,
    Scale,
    exceedance_p_value,
    paired_ratio,
    single_ratio,
)
from evalkit.statistics.flips import Flips, flips, is_of_shares, is_same_answer
from evalkit.statistics.ratios import as_fraction, as_perplexity


class IncomparableError(Exception):
    """Two scores cannot be compared under this gate; the message becomes the verdict's."""


@dataclass(frozen=True)
class BudgetTest:
    """One gate's hypothesis: the effect is not past the limit."""

    gate: Gate
    comparison: Comparison
    sense: int
    """+1 where more is worse, −1 where less is."""
    limit: float
    """The worst allowed effect, on the comparison's scale."""
    show: Callable[[float], float]
    """From the comparison's scale to the one that a verdict reports; increasing."""
    flips: Flips | None = None
    """Of hits and misses: reported, never decisive."""
    training_spread: float | None = None
    """Standard deviation of the effect between training seeds, on the reported scale."""
    n_seeds: int | None = None
    """Seeds that it is estimated from."""
    training_share: float = 0.0
    """Of the variance that is training's, and that more documents do not lower."""
    noise_floor: float | None = None
    """What scoring the same weights twice may move, on the comparison's scale."""

    @property
    def p_value(self) -> float | None:
        """One-sided, unadjusted; None where there is no sampling error, or none can be had."""
        if self.comparison.exact:
            return None
        return exceedance_p_value(self.comparison, self.limit, sense=self.sense)

    def past(self, effect: float) -> float:
        """How far an effect lies past the limit; negative within it."""
        return self.sense * (effect - self.limit)

    def is_better(self, effect: float) -> bool:
        """Whether an effect is an improvement on the reference."""
        return self.gate.against is not None and self.sense * effect < 0

    def shown_interval(
        self, low: float | None, high: float | None
    ) -> tuple[float | None, float | None]:
        """An interval's ends on the reported scale."""
        return (None if low is None else self.show(low), None if high is None else self.show(high))


def differing_fields(score: Score, reference: Score) -> tuple[str, ...]:
    """What keeps two scores from being compared, in words; empty where they can be.

    Besides the declared fields (data, protocol, tokenizer, lengths) the units themselves must be
    the same ones in the same order, of the same clusters, and for a perplexity with the same
    number of scored tokens: pairing unlike documents would give a number without a meaning.
    """
    keys = sorted({*score.comparison, *reference.comparison})
    pairs = [(key, score.comparison.get(key), reference.comparison.get(key)) for key in keys]
    pairs += [
        (name, str(getattr(score, name)), str(getattr(reference, name)))
        for name in ("kind", "unit", "higher_is_better")
    ]
    fields = [f"{key} ({_short(a)}, {_short(b)})" for key, a, b in pairs if a != b]
    return tuple(fields) if fields else _differing_units(score, reference)


def difference_test(
    gate: Gate, score: Score, reference: Score, *, bootstrap: Bootstrap | None
) -> BudgetTest:
    """The test of a `max_increase` or `max_decrease`.

    Raises:
        IncomparableError: the scores differ in what they must share, or the budget has no meaning
            for the metric.
        ValueError: the gate has neither budget.
    """
    budget, sense = _budget(gate)
    if fields := differing_fields(score, reference):
        raise IncomparableError(f"they differ in {', '.join(fields)}")
    amount = sense * budget.amount
    scale, limit, show = _scale(budget, amount, score.kind == "perplexity")
    if scale == "relative" and reference.value <= 0:
        value = f"{reference.value:g}"
        raise IncomparableError(f"a relative budget needs a reference above zero, not {value}")
    if not score.unit_ids:
        comparison = _measured(score, reference, scale)
    else:
        comparison = paired_ratio(
            score.sums,
            score.counts,
            reference.sums,
            reference.counts,
            score.clusters,
            scale=scale,
            shares=is_of_shares(score) and is_of_shares(reference),
            bootstrap=bootstrap,
        )
        if is_same_answer(score, reference):
            comparison = replace(comparison, identical=True)
    return BudgetTest(gate, comparison, sense, limit, show, flips(score, reference))


def absolute_test(gate: Gate, score: Score, *, bootstrap: Bootstrap | None) -> BudgetTest:
    """The test of a `min` or `max`, which needs no reference.

    A score with units is a sample and judged by its interval; one without is what it is.

    Raises:
        ValueError: the gate has neither limit.
    """
    bound, sense = (gate.minimum, -1) if gate.maximum is None else (gate.maximum, 1)
    if bound is None:
        raise ValueError(f"the gate on {gate.metric} of {gate.variant} has no limit")
    if not score.unit_ids:
        return BudgetTest(gate, _point(score.value), sense, bound, _same)
    comparison = single_ratio(
        score.sums,
        score.counts,
        score.clusters,
        shares=is_of_shares(score),
        bootstrap=bootstrap,
    )
    if score.kind == "perplexity":
        limit = math.log(bound) if bound > 0 else -math.inf
        return BudgetTest(gate, comparison, sense, limit, as_perplexity)
    return BudgetTest(gate, comparison, sense, bound, _same)


def _budget(gate: Gate) -> tuple[Budget, int]:
    if gate.max_increase is not None:
        return gate.max_increase, 1
    if gate.max_decrease is not None:
        return gate.max_decrease, -1
    raise ValueError(f"the gate on {gate.metric} of {gate.variant} has no budget")


def _scale(
    budget: Budget, amount: float, is_perplexity: bool
) -> tuple[Scale, float, Callable[[float], float]]:
    """The effect's scale, the limit on it, and the way back to what is reported."""
    if is_perplexity and budget.unit == "points":
        raise IncomparableError("percentage points mean nothing for a perplexity")
    if is_perplexity and budget.unit == "relative":
        return "difference", math.log1p(amount) if amount > -1 else -math.inf, as_fraction
    if is_perplexity:
        return "exp_difference", amount, _same
    return ("relative" if budget.unit == "relative" else "difference"), amount, _same


def _measured(score: Score, reference: Score, scale: Scale) -> Comparison:
    a, b = score.value, reference.value
    if scale == "relative":
        return _point(a / b - 1)
    if scale == "difference" and score.kind == "perplexity":
        return _point(math.log(a / b))
    return _point(a - b)


def _point(effect: float) -> Comparison:
    """A measurement of one thing: no sample, no interval."""
    return Comparison(effect, 0.0, 0, effect, effect, 0, 0, 0.0)


def _differing_units(score: Score, reference: Score) -> tuple[str, ...]:
    ours, theirs = score.unit_ids, reference.unit_ids
    if ours != theirs:
        if sorted(ours) == sorted(theirs):
            return ("the order of the units",)
        only = len(set(ours) - set(theirs)), len(set(theirs) - set(ours))
        return (f"the units ({only[0]} of {len(ours)} and {only[1]} of {len(theirs)} unpaired)",)
    if score.clusters != reference.clusters:
        return ("the units' clusters",)
    if score.kind == "perplexity" and not np.array_equal(score.counts, reference.counts):
        first = int(np.flatnonzero(score.counts != reference.counts)[0])
        counts = f"{score.counts[first]:g}, {reference.counts[first]:g}"
        return (f"the tokens scored in {_short(ours[first])} ({counts})",)
    return ()


def _short(value: str | None) -> str:
    if value is None:
        return "nothing"
    return value if len(value) <= 24 else f"{value[:12]}…"


def _same(effect: float) -> float:
    return effect
