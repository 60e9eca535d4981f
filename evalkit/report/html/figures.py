"""Pictures and data of the page: charts in both widths, and what its script reads."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from evalkit.records import RunRecord
from evalkit.report import facts as records
from evalkit.report.documents_view import document_moves
from evalkit.report.html.charts import Dot, Shape, dot_plot
from evalkit.report.html.document_chart import document_chart
from evalkit.report.html.drawings import Drawings
from evalkit.report.html.scripts import data_block
from evalkit.report.token_view import token_data, token_view
from evalkit.report.variant_table import VariantTable
from evalkit.report.view import MetricTable
from evalkit.report.words import clean, score_figure

MOST_PAIRS = 12
"""Pairs of variants whose documents are drawn."""
_DOTS: dict[records.Standing, tuple[str, Shape]] = {
    "passes": ("var(--good)", "circle"),
    "not judged": ("var(--neutral)", "circle"),
    "known loss": ("var(--bad)", "diamond"),
    "fails": ("var(--bad)", "diamond"),
    "not settled": ("var(--warn)", "triangle-up"),
    "failed": ("var(--bad)", "square"),
}
_LEGEND: dict[records.Standing, str] = {
    "passes": "passes its gates",
    "not judged": "no gate of its own",
    "known loss": "regressed, as expected",
    "fails": "fails a gate",
    "not settled": "not settled",
    "failed": "failed",
}


def metric_chart(run: RunRecord, table: MetricTable, drawings: Drawings) -> dict[str, Any]:
    """One metric of every variant as a picture, with its title and its legend."""
    dots: list[Dot] = []
    legend: dict[records.Standing, tuple[str, Shape, str]] = {}
    for variant in run.variants:
        score = variant.scores.get(table.metric)
        if score is None:
            continue
        low, high = records.interval(score) or (score.value, score.value)
        standing = records.standing(run, variant.name)
        color, shape = _DOTS[standing]
        legend[standing] = (color, shape, _LEGEND[standing])
        shown = score_figure(score.value, score.unit)
        dots.append(Dot(variant.name, score.value, low, high, color, shape, shown))
    higher_is_better = table.direction.startswith("higher")
    dots.sort(key=lambda dot: dot.value, reverse=higher_is_better)
    title = f"{table.title} ({table.unit}), {table.direction}"
    return {
        "title": title,
        **drawings.picture(dot_plot, dots, title=title),
        "legend": [legend[standing] for standing in _DOTS if standing in legend],
    }


def documents_context(run: RunRecord, drawings: Drawings) -> dict[str, Any]:
    """The variables of `documents.html.j2`."""
    moved, tokens = document_moves(run)[:MOST_PAIRS], token_view(run)
    return {
        "moved": moved,
        "moved_chart": drawings.picture(document_chart, moved) if moved else None,
        "tokens": tokens,
        "token_data": data_block(token_data(tokens)) if tokens else None,
    }


def values_data(table: VariantTable) -> Markup:
    """What the script needs to compare with another reference, and to sort."""
    return data_block(
        [
            {
                "title": clean(column.title, longest=200),
                "higherIsBetter": column.higher_is_better,
                "changes": column.changes,
            }
            for column in table.columns
        ]
    )
