"""What each step did to every measure: rows and columns for the page, the terminal and others."""

from __future__ import annotations

from dataclasses import dataclass

from evalkit.records import DIVERGENCE, RunRecord
from evalkit.report.attribution import EdgeEffect, edge_effect
from evalkit.report.facts import shown_metrics, variant_named
from evalkit.report.path_effects import edge_kind
from evalkit.report.words import change_words, metric_words

BITS = "bits/byte"


@dataclass(frozen=True)
class StepCell:
    """What an edge did to one measure; empty where that was not measured."""

    change: str = ""
    interval: str = ""
    flips: str = ""
    """'5 gained, 2 lost', samples of a task."""
    tone: str = "plain"
    """'good' or 'bad' where the interval lies on one side of zero."""


@dataclass(frozen=True)
class StepRow:
    """An edge of the variant graph."""

    parent: str
    variant: str
    kind: str
    """'quantisation'."""
    steps: str
    cells: tuple[StepCell, ...]


@dataclass(frozen=True)
class StepTable:
    """Every edge and every measure that one of them has an effect on."""

    columns: tuple[str, ...]
    rows: tuple[StepRow, ...]


def step_table(run: RunRecord, metrics: list[str] | None = None) -> StepTable:
    """The effect of every edge on every measure; no rows where nothing can be compared.

    Args:
        run: the run.
        metrics: those to show; all that have a table of their own by default.
    """
    chosen = shown_metrics(run) if metrics is None else metrics
    rows = []
    for variant in run.variants:
        parent = variant_named(run, variant.parent)
        effects = {metric: edge_effect(run, variant, metric) for metric in chosen}
        if parent is None or not any(effects.values()):
            continue
        cells: dict[str, StepCell] = {}
        for metric, effect in effects.items():
            cells |= _cells(metric, effect)
        kind = edge_kind(parent, variant)
        rows.append((StepRow(parent.name, variant.name, kind, variant.edge, ()), cells))
    columns = list(dict.fromkeys(name for _, cells in rows for name in cells))
    # A column keeps its place when the first edge lacks the measure.
    titles = dict.fromkeys(name for metric in chosen for name in _titles(metric))
    order = [name for name in titles if name in columns]
    return StepTable(
        columns=tuple(order),
        rows=tuple(
            StepRow(
                row.parent, row.variant, row.kind, row.steps,
                tuple(cells.get(name, StepCell()) for name in order),
            )
            for row, cells in rows
        ),
    )  # fmt: skip


def _titles(metric: str) -> tuple[str, ...]:
    words = metric_words(metric)
    if metric == DIVERGENCE:
        return ("KL, nats/token",)
    corpus = metric.partition("/")[2]
    return words, f"{BITS} on {corpus}" if corpus else BITS


def _cells(metric: str, effect: EdgeEffect | None) -> dict[str, StepCell]:
    if effect is None:
        return {}
    seen, titles = effect.measured, _titles(metric)
    tone = {"better": "good", "worse": "bad"}.get(seen.direction, "plain")
    if metric == DIVERGENCE:  # a distance: fine-tuning is meant to go some way
        tone = "plain"
    change, interval = effect.words
    flips = f"{seen.gained} gained, {seen.lost} lost" if seen.gained or seen.lost else ""
    cells = {titles[0]: StepCell(change, interval, flips, tone)}
    if effect.bits_per_byte is not None:
        bits = change_words(*effect.bits_per_byte, "absolute")
        cells[titles[1]] = StepCell(*bits, "", tone)
    return cells
