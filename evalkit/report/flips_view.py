"""Samples of tasks that a variant gained and lost against the reference, with McNemar's p."""

from __future__ import annotations

from dataclasses import dataclass

from evalkit.records import RunRecord, Score
from evalkit.report import facts
from evalkit.report.view import p_words
from evalkit.statistics.flips import flips


@dataclass(frozen=True)
class FlipRow:
    """One task's metric."""

    metric: str
    samples: int
    reference: str
    cells: tuple[str, ...]
    """Of each variant in the run's order: '+3 −5, p = 0.73', 'reference', '–'."""


def flip_rows(run: RunRecord) -> list[FlipRow]:
    """A row for each hit-or-miss metric of a task.

    The reference is divergence's, where it was scored on the task; else the plain base weights.
    """
    rows = []
    for metric in facts.shown_metrics(run):
        reference = facts.variant_named(run, facts.divergence_reference(run))
        if reference is None or metric not in reference.scores:
            reference = facts.reference_of(run, metric)
        base = reference.scores.get(metric) if reference is not None else None
        if reference is None or base is None or not facts.is_task(base) or not flips(base, base):
            continue
        cells = tuple(
            "reference" if v.name == reference.name else _cell(v.scores.get(metric), base)
            for v in run.variants
        )
        rows.append(FlipRow(metric, len(base.unit_ids), reference.name, cells))
    return rows


def _cell(score: Score | None, base: Score) -> str:
    if score is None:
        return "–"
    if not facts.comparable(score, base):
        return "not comparable"
    found = flips(score, base)
    if found is None:
        return "–"
    if not found.gained + found.lost:
        return "no flip"
    return f"+{found.gained} \N{MINUS SIGN}{found.lost}, {p_words(found.p_value)}"
