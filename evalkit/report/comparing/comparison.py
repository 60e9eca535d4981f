"""Two runs side by side: every shared score with its paired interval, and what moved. Pure.

The first is the old side, the reference; the second the new one. A change is new minus old, on the
units that both scored, and its 95 % interval is the one that gates use (see `evalkit.statistics`).
Intervals are not adjusted for their number, and nothing here passes or fails.

Costs stand apart: bytes that grew are no loss of quality. What was read off a clock once is left
out, since it moves from run to run with nothing changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from evalkit.errors import UsageError
from evalkit.records import COSTS, Baseline, Gate, JsonObject, RunRecord, Score
from evalkit.report.comparing.metrics import MetricChange, metric_change

__all__ = [
    "RunComparison",
    "Side",
    "compare_sides",
    "side_of_baseline",
    "side_of_run",
]

MOST_MOVED = 5


@dataclass(frozen=True)
class Side:
    """One of the two: a run or a baseline, whole or one variant of it."""

    name: str
    """'run 20261121-224455-a3f1', 'baseline main (run …)'."""
    run: str
    suite: str
    scores: Mapping[str, Mapping[str, Score]]
    """By variant, then by metric; of one variant where `variant` says so."""
    provenance: JsonObject
    gates: tuple[Gate, ...] = ()
    variant: str | None = None
    paths: Mapping[str, tuple[JsonObject, ...]] = field(default_factory=dict)
    settings: JsonObject | None = None
    """The resolved suite; a baseline keeps none."""


@dataclass(frozen=True)
class RunComparison:
    """Everything that two sides share, and what only one of them has."""

    old: Side
    new: Side
    metrics: tuple[MetricChange, ...]
    only_old: tuple[str, ...]
    """'perplexity of nf4'."""
    only_new: tuple[str, ...]
    costs: tuple[MetricChange, ...] = ()
    """Bytes on the disk and in memory: measured exactly, and no part of `metrics`."""


def side_of_run(record: RunRecord, variant: str | None = None) -> Side:
    """A run as a side.

    Raises:
        UsageError: it has no such variant.
    """
    scores = {each.name: each.scores for each in record.variants}
    return Side(
        name=f"run {record.id}",
        run=record.id,
        suite=record.suite,
        scores=_chosen(scores, variant, f"run {record.id}"),
        provenance=record.provenance,
        gates=record.gates,
        variant=variant,
        paths={each.name: each.path for each in record.variants},
        settings=record.suite_json,
    )


def side_of_baseline(baseline: Baseline, variant: str | None = None, *, place: str = "") -> Side:
    """A baseline as a side.

    Raises:
        UsageError: it has no such variant.
    """
    name = f"baseline {place or baseline.name} (run {baseline.run})"
    return Side(
        name=name,
        run=baseline.run,
        suite=baseline.suite,
        scores=_chosen(baseline.scores, variant, name),
        provenance=baseline.provenance,
        gates=baseline.gates,
        variant=variant,
    )


def compare_sides(old: Side, new: Side, *, most_moved: int = MOST_MOVED) -> RunComparison:
    """Compares two sides: one variant with one where both name one, else by the variants' names.

    Args:
        old: the reference.
        new: what is compared with it.
        most_moved: how many units each metric names.
    """
    pairs = _variant_pairs(old, new)
    metrics: list[MetricChange] = []
    costs: list[MetricChange] = []
    only_old, only_new = [], []
    for before, after in pairs:
        ours, theirs = old.scores.get(before, {}), new.scores.get(after, {})
        for metric in dict.fromkeys((*ours, *theirs)):
            if metric in COSTS and COSTS[metric].is_timed:
                continue
            if metric not in theirs:
                only_old.append(f"{metric} of {before}")
            elif metric not in ours:
                only_new.append(f"{metric} of {after}")
            else:
                change = metric_change(
                    before, after, ours[metric], theirs[metric], most_moved=most_moved
                )
                (costs if metric in COSTS else metrics).append(change)
    return RunComparison(old, new, tuple(metrics), tuple(only_old), tuple(only_new), tuple(costs))


def _chosen(
    scores: Mapping[str, Mapping[str, Score]], variant: str | None, whose: str
) -> Mapping[str, Mapping[str, Score]]:
    if variant is None:
        return scores
    if variant not in scores:
        raise UsageError(f"{whose} has no variant {variant!r} (allowed: {', '.join(scores)})")
    return {variant: scores[variant]}


def _variant_pairs(old: Side, new: Side) -> list[tuple[str, str]]:
    if old.variant is not None and new.variant is not None:
        return [(old.variant, new.variant)]
    named = old.variant or new.variant
    if named is not None:
        return [(named, named)]
    return [(name, name) for name in dict.fromkeys((*new.scores, *old.scores))]
