"""What each edge of the variant graph did to a metric: a variant against its nearest ancestor.

A path's effects multiply up for perplexity (in nats per token they add up), since every edge is
measured on the same documents: from a variant to its ancestor's ancestor there is no rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from evalkit.records import SURVIVAL, RunRecord, VariantRecord
from evalkit.report import facts
from evalkit.report.words import change_words

if TYPE_CHECKING:
    from evalkit.report.comparison_metrics import MetricChange


@dataclass(frozen=True)
class EdgeEffect:
    """What the steps between two scored variants did."""

    variant: str
    parent: str
    steps: str
    """'attach guanaco, merge'."""
    measured: MetricChange

    @property
    def words(self) -> tuple[str, str]:
        """The change and its 95 % interval: ('+54.2 %', '+50.0 to +60.2 %')."""
        seen = self.measured
        if seen.effect is None:
            return "", ""
        return change_words(seen.effect, seen.low, seen.high, seen.effect_unit)


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
    from evalkit.report.comparison_metrics import metric_change

    score = variant.scores.get(metric)
    parent = facts.score_of(run, variant.parent, metric)
    if score is None or parent is None or variant.parent is None or metric == SURVIVAL:
        return None
    measured = metric_change(variant.parent, variant.name, parent, score, most_moved=0)
    if measured.effect is None:
        return None
    return EdgeEffect(variant.name, variant.parent, variant.edge, measured)
