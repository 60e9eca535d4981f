"""A run's page in a millisecond, from its history alone: until it is drawn whole."""

from __future__ import annotations

import re
from dataclasses import dataclass

from markupsafe import Markup

from evalkit.records import COSTS, DIVERGENCE, SURVIVAL, PastRun
from evalkit.report import facts
from evalkit.report.details import flat
from evalkit.report.site.files import LIGHT_MARK
from evalkit.report.site.looking_back import (
    changes,
    metric_title,
    sentence,
    short,
    status,
    trend_metrics,
    when,
)
from evalkit.report.site.pages import render
from evalkit.report.site.places import Places
from evalkit.report.view import gate_rows, group_rows
from evalkit.report.words import cost_figure, counted, percent, score_figure

_MOST_ROWS = 300


@dataclass(frozen=True)
class ValueRow:
    """A variant's value."""

    name: str
    value: str
    interval: str
    size: str


@dataclass(frozen=True)
class ValueTable:
    """All variants' values of one metric."""

    title: str
    unit: str
    direction: str
    rows: tuple[ValueRow, ...]


def light_page(past: PastRun, before: PastRun | None, places: Places) -> str:
    """A run's sentence, verdicts, values and provenance, and how to have the rest drawn."""
    run = past.outline
    tone, words = status(run)
    told = sentence(run)
    lead = len(re.split(r"[;:] ", told, maxsplit=1)[0])
    return render(
        "light.html.j2",
        mark=Markup(LIGHT_MARK),
        run_id=short(run.id),
        suite=short(run.suite),
        back=places.back(run),
        status=(tone, words),
        lead=told[:lead],
        rest=told[lead:],
        facts=[when(run.started), counted(len(run.variants), "variant")],
        gates=gate_rows(run)[:_MOST_ROWS],
        tables=[_table(past, metric) for metric in trend_metrics(run)],
        group=group_rows(run)[:_MOST_ROWS],
        variants=[short(variant.name) for variant in run.variants],
        changed=changes(before.outline if before else None, run),
        provenance=flat(dict(run.provenance))[:_MOST_ROWS],
    )


def _table(past: PastRun, metric: str) -> ValueTable:
    run = past.outline
    score = next(v.scores[metric] for v in run.variants if metric in v.scores)
    rows = [_row(past, variant.name, metric) for variant in run.variants]
    return ValueTable(
        title=metric_title(metric),
        unit=short(score.unit),
        direction="higher is better" if score.higher_is_better else "lower is better",
        rows=tuple(row for row in rows if row.value),
    )


def _row(past: PastRun, name: str, metric: str) -> ValueRow:
    variant = facts.variant_named(past.outline, name)
    score = variant.scores.get(metric) if variant else None
    if variant is None or score is None:
        of_itself = metric == DIVERGENCE and facts.divergence_reference(past.outline) == name
        missing = "reference" if of_itself else "not scored" if _failed(past, name) else ""
        return ValueRow(short(name), missing, "", "")
    behind = past.scores[name][metric]
    ends = facts.interval(score, clusters=behind.n_clusters)
    size = counted(len(score.unit_ids), facts.unit_noun(score)) if score.unit_ids else ""
    return ValueRow(
        short(name),
        _figure(metric, score.value, score.unit),
        " to ".join(_figure(metric, end, score.unit) for end in ends) if ends else "",
        size,
    )


def _failed(past: PastRun, name: str) -> bool:
    variant = facts.variant_named(past.outline, name)
    return variant is not None and facts.job_status(variant) != "scored"


def _figure(metric: str, value: float, unit: str) -> str:
    if metric in COSTS:
        return cost_figure(metric, value)
    return percent(value) if metric == SURVIVAL else score_figure(value, unit)
