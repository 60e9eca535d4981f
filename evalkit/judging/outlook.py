"""What each gate could see with the data at hand, before anything is run. Pure.

The variance comes from scores that are there already: of the jobs that would run, of an earlier
run on the same data, or of a pilot on a part of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from evalkit.judging.budgets import BudgetTest
from evalkit.judging.gates import Evidence, examine
from evalkit.records import BASELINE, Gate, Verdict
from evalkit.statistics.clusters import (
    FEW_CLUSTERS,
    Comparison,
    VisibleChange,
    clusters_to_settle,
    visible_change,
)

_NEGLIGIBLE = 0.05


@dataclass(frozen=True)
class Basis:
    """Scores to reckon with, and how much larger the run's data are."""

    evidence: Evidence
    words: str
    """'run 20260101-000000-0000', 'a pilot of the first 12'."""
    growth: Mapping[str, float]
    """By metric: units of the run over units of these scores; 1 where it is not named."""


@dataclass(frozen=True)
class Outlook:
    """What one gate could see."""

    gate: Gate
    basis: str
    """Where the variance is from; empty where there is none."""
    problem: str = ""
    """Why nothing can be told."""
    test: BudgetTest | None = None
    """With the comparison as the run's data would have it."""
    visible: VisibleChange | None = None
    units_needed: int | None = None
    """Clusters with which an unchanged model would pass, with 80 % power; None where it does, or
    where no number would do."""


def outlooks(gates: Sequence[Gate], bases: Sequence[Basis]) -> tuple[Outlook, ...]:
    """What every gate could see, each by the first basis that has its scores."""
    return tuple(_outlook(gate, bases) for gate in gates)


def _outlook(gate: Gate, bases: Sequence[Basis]) -> Outlook:
    problem = ""
    for basis in bases:
        found = examine(gate, basis.evidence, None)
        if isinstance(found, Verdict):
            problem = problem or _problem(found, basis)
            continue
        grown = _grown(found.comparison, basis.growth.get(gate.metric, 1.0))
        return _told(replace(found, comparison=grown), basis.words)
    return Outlook(gate, "", problem)


def _problem(found: Verdict, basis: Basis) -> str:
    if found.gate.against == BASELINE and basis.evidence.baseline is None:
        return "no baseline is promoted yet"
    return "" if found.verdict == "MISSING" else found.message


def _told(test: BudgetTest, basis: str) -> Outlook:
    gate, seen = test.gate, test.comparison
    if seen.n_units == 0:
        return Outlook(gate, basis, "it is measured, not sampled: every change is seen")
    if seen.exact or not seen.planning_error:
        return Outlook(gate, basis, "both sides are identical now: nothing tells how they scatter")
    unchanged = 0.0 if gate.against is not None else seen.effect
    visible = visible_change(seen, limit=test.limit, sense=test.sense, unchanged=unchanged)
    needed = None
    # More documents do not lower what training adds.
    only_documents = test.training_share < _NEGLIGIBLE
    if only_documents and not visible.passes_unchanged and test.past(unchanged) < 0:
        needed = clusters_to_settle(replace(seen, effect=unchanged), test.limit)
    return Outlook(gate, basis, "", test, visible, needed)


def _grown(seen: Comparison, factor: float) -> Comparison:
    """The comparison as `factor` times as many clusters like these would have it."""
    if factor == 1 or seen.planning_error is None:
        return seen
    effective = seen.effective_clusters * factor
    return replace(
        seen,
        stderr=seen.planning_error / math.sqrt(factor),
        skewness=seen.skewness / math.sqrt(factor),
        expected_skewness=seen.expected_skewness / math.sqrt(factor),
        effective_clusters=effective,
        df=max(1.0, effective - 1),
        n_units=round(seen.n_units * factor),
        n_clusters=round(seen.n_clusters * factor),
        counts=None,
    )


def asks_for_change(outlook: Outlook) -> bool:
    """Whether the gate's budget asks for an improvement, which no unchanged model makes."""
    test = outlook.test
    return test is not None and test.gate.against is not None and test.past(0.0) >= 0


def few_clusters(outlook: Outlook) -> bool:
    """Whether nothing can pass for want of clusters."""
    return outlook.test is not None and outlook.test.comparison.effective_clusters < FEW_CLUSTERS
