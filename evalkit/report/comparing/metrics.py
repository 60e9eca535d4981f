"""One score on both sides of a comparison: its change, its interval, the units that moved. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from evalkit.judging.budgets import differing_fields
from evalkit.records import BudgetUnit, Float64s, MetricKind, Score
from evalkit.report.facts import unit_noun
from evalkit.statistics.clusters import ALPHA, exceedance_p_value, paired_ratio
from evalkit.statistics.flips import flips, is_of_shares, is_same_answer
from evalkit.statistics.ratios import as_fraction

__all__ = ["Direction", "MetricChange", "Moved", "metric_change"]

Direction = Literal["better", "worse", "no clear change", "identical", "incomparable"]
_LONGEST_TEXT = 60


@dataclass(frozen=True)
class Moved:
    """A unit that moved."""

    unit: str
    """Its id: a hash of the document."""
    cluster: str
    old: float
    """Nats per token for a perplexity, the metric's own value else."""
    new: float
    count: float
    """Tokens that were scored in it."""
    text: str = ""
    """How it begins, where tokens were recorded."""

    @property
    def change(self) -> float:
        """New minus old."""
        return self.new - self.old


@dataclass(frozen=True)
class MetricChange:
    """One metric on both sides."""

    metric: str
    old_variant: str
    new_variant: str
    old: float
    new: float
    kind: MetricKind
    unit: str
    higher_is_better: bool
    direction: Direction
    effect: float | None = None
    """A fraction for a perplexity (0.03 = +3 %), new minus old else; None where incomparable."""
    low: float | None = None
    """The unadjusted two-sided 95 % interval, on the effect's scale."""
    high: float | None = None
    effect_unit: BudgetUnit = "absolute"
    difference: tuple[float, float | None, float | None] | None = None
    """The effect and its interval where effects add up: in nats per token of a perplexity, the
    effect itself else."""
    noun: str = "unit"
    """What a unit is: 'document'."""
    n_units: int = 0
    n_clusters: int = 0
    effective_clusters: float = 0.0
    gained: int | None = None
    """Samples that only the new side has right; for hit-or-miss metrics."""
    lost: int | None = None
    differs: tuple[str, ...] = ()
    """What keeps the two from being compared."""
    moved: tuple[Moved, ...] = ()
    """The units that moved most, by the size of their change."""


def metric_change(
    before: str, after: str, old: Score, new: Score, *, most_moved: int
) -> MetricChange:
    """Compares a score with an older one.

    Args:
        before: the old side's variant.
        after: the new side's.
        old: the reference.
        new: what is compared with it.
        most_moved: how many units are named.
    """
    plain = MetricChange(
        metric=new.metric,
        old_variant=before,
        new_variant=after,
        old=old.value,
        new=new.value,
        kind=new.kind,
        unit=new.unit,
        higher_is_better=new.higher_is_better,
        direction="incomparable",
        effect_unit=_effect_unit(old, new),
        noun=unit_noun(new),
    )
    if fields := differing_fields(new, old):
        return replace(plain, differs=fields)
    if not new.unit_ids:
        effect = new.value - old.value
        return replace(plain, effect=effect, direction=_direction(effect, new))
    seen = paired_ratio(
        new.sums,
        new.counts,
        old.sums,
        old.counts,
        new.clusters,
        shares=is_of_shares(new) and is_of_shares(old),
        bootstrap=None,
    )
    is_same = seen.identical or is_same_answer(new, old)
    flipped = flips(new, old)
    show = as_fraction if new.kind == "perplexity" else float
    sides = [exceedance_p_value(seen, 0.0, sense=sense) for sense in (1, -1)]
    is_clear = any(p_value is not None and p_value <= ALPHA for p_value in sides)
    return replace(
        plain,
        direction=_direction(seen.effect, new) if is_same or is_clear else "no clear change",
        effect=show(seen.effect),
        low=None if seen.low is None else show(seen.low),
        high=None if seen.high is None else show(seen.high),
        difference=(seen.effect, seen.low, seen.high),
        n_units=seen.n_units,
        n_clusters=seen.n_clusters,
        effective_clusters=seen.effective_clusters,
        gained=None if flipped is None else flipped.gained,
        lost=None if flipped is None else flipped.lost,
        moved=_most_moved(old, new, most_moved),
    )


def _direction(effect: float, score: Score) -> Direction:
    if effect == 0:
        return "identical"
    return "better" if (effect > 0) == score.higher_is_better else "worse"


def _effect_unit(old: Score, new: Score) -> BudgetUnit:
    """Perplexities change by percent, shares by percentage points, all else by its own unit."""
    if new.kind == "perplexity":
        return "relative"
    return "points" if is_of_shares(new) and is_of_shares(old) else "absolute"


def _most_moved(old: Score, new: Score, most: int) -> tuple[Moved, ...]:
    """The units with the largest change of their own ratio; those that did not move are none."""
    counted = np.flatnonzero((old.counts > 0) & (new.counts > 0))
    before, after = _ratios(old, counted), _ratios(new, counted)
    size = np.abs(after - before)
    order = np.argsort(-size, kind="stable")[:most]
    texts = {part.unit: part.tokens for part in (*old.token_losses, *new.token_losses)}
    return tuple(
        Moved(
            unit=new.unit_ids[counted[index]],
            cluster=new.clusters[counted[index]],
            old=float(before[index]),
            new=float(after[index]),
            count=float(new.counts[counted[index]]),
            text=_beginning(texts.get(int(counted[index]), ())),
        )
        for index in order
        if size[index] > 0
    )


def _ratios(score: Score, which: NDArray[np.intp]) -> Float64s:
    ratios: Float64s = score.sums[which] / score.counts[which]
    return ratios


def _beginning(tokens: tuple[str, ...]) -> str:
    text = " ".join("".join(tokens[:_LONGEST_TEXT]).split())
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…"
