"""What each edge of the variant graph did to a metric: a variant against its nearest ancestor.

A path's effects multiply up for perplexity (in nats per token, and in bits per byte, they add up),
since every edge is measured on the same documents: from a variant to its ancestor's ancestor there
is no rest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from evalkit.records import COSTS, DIVERGENCE, SURVIVAL, RunRecord, Score, VariantRecord
from evalkit.report import facts
from evalkit.report.words import change_words

if TYPE_CHECKING:
    from evalkit.report.comparing.metrics import MetricChange

Interval = tuple[float, float | None, float | None]
"""A value and the ends of its 95 % interval, None where there is none."""


@dataclass(frozen=True)
class EdgeEffect:
    """What the steps between two scored variants did."""

    variant: str
    parent: str
    steps: str
    """'attach guanaco, merge'."""
    measured: MetricChange
    bits_per_nat: float | None = None
    """Of a perplexity: bits per byte for each nat per token, n_tokens/(n_bytes · ln 2)."""

    @property
    def words(self) -> tuple[str, str]:
        """The change and its 95 % interval: ('+54.2 %', '+50.0 to +60.2 %')."""
        seen = self.measured
        if seen.effect is None:
            return "", ""
        return change_words(seen.effect, seen.low, seen.high, seen.effect_unit)

    @property
    def nats(self) -> Interval | None:
        """The effect on a perplexity in nats per token, which add up along a path."""
        return self.measured.difference if self.measured.kind == "perplexity" else None

    @property
    def bits_per_byte(self) -> Interval | None:
        """The same effect in bits per byte; None where the bytes were not counted."""
        nats, factor = self.nats, self.bits_per_nat
        if nats is None or factor is None:
            return None
        low, high = (None if end is None else end * factor for end in nats[1:])
        return nats[0] * factor, low, high


def edge_effects(run: RunRecord, metric: str) -> list[EdgeEffect]:
    """The effect of every edge whose two ends can be compared, in the run's order.

    Args:
        run: the run.
        metric: of which both ends need a score.
    """
    found = (edge_effect(run, variant, metric) for variant in run.variants)
    return [effect for effect in found if effect is not None]


def edge_effect(run: RunRecord, variant: VariantRecord, metric: str) -> EdgeEffect | None:
    """What the steps since a variant's nearest scored ancestor did.

    Returns:
        None where there is no ancestor, or the two cannot be compared.
    """
    parent = facts.variant_named(run, variant.parent)
    if parent is None or metric == SURVIVAL or (metric in COSTS and COSTS[metric].is_timed):
        return None
    return effect_between(run, parent, variant, metric)


def effect_between(
    run: RunRecord, start: VariantRecord, end: VariantRecord, metric: str
) -> EdgeEffect | None:
    """What lies between two variants, whatever steps that takes; None where they do not compare."""
    from evalkit.report.comparing.metrics import metric_change

    before, after = start.scores.get(metric), end.scores.get(metric)
    if metric == DIVERGENCE:
        before = before or _no_divergence(run, start, after)
        after = after or _no_divergence(run, end, before)
    if before is None or after is None:
        return None
    measured = metric_change(start.name, end.name, before, after, most_moved=0)
    if measured.effect is None:
        return None
    return EdgeEffect(end.name, start.name, end.edge, measured, _bits_per_nat(before, after))


def divergence_reference(run: RunRecord) -> str | None:
    """The variant that divergence is measured from, as the suite names it."""
    found: object = run.suite_json
    for key in ("metrics", DIVERGENCE, "reference"):
        found = found.get(key) if isinstance(found, Mapping) else None
    return str(found) if found is not None else None


def _no_divergence(run: RunRecord, variant: VariantRecord, other: Score | None) -> Score | None:
    """The reference's own score, which nobody measures: no divergence on any unit.

    Paired with it, another's divergence is its effect, with the interval that it has by itself.
    """
    if other is None or variant.name != divergence_reference(run):
        return None
    return replace(other, value=0.0, stderr=None, sums=other.sums * 0.0, extra={})


def _bits_per_nat(before: Score, after: Score) -> float | None:
    sizes = [(score.extra.get("n_tokens"), score.extra.get("n_bytes")) for score in (before, after)]
    tokens, count = sizes[0]
    if after.kind != "perplexity" or sizes[0] != sizes[1] or not tokens or not count:
        return None
    return tokens / (count * math.log(2))
