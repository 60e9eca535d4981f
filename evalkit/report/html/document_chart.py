"""How the loss of every document moved, as histograms under each other on one scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup

from evalkit.report.documents_view import Moves
from evalkit.report.html.charts import NARROW, WIDE, Layout, Tables, chart_config, draw
from evalkit.report.words import clean

if TYPE_CHECKING:
    import altair as alt

_BINS = {WIDE: 60, NARROW: 30}
_STEPS = {WIDE: 66, NARROW: 86}
"""Height of a row, in pixels; on narrow screens its name takes two lines."""
_BAR = 0.5
"""Of a row's height: its highest bar."""
_TITLE = "change of a document's loss in nats per token; left of 0 is better, right of it worse"


def document_chart(found: Sequence[Moves], *, layout: Layout) -> Markup:
    """Draws one row for each pair: bars count documents, the line is their median.

    Args:
        found: at least one pair, each with a document or more.
        layout: `WIDE` or `NARROW`.

    Returns:
        An `<svg>` element to put into a page, every name in it escaped.
    """
    import altair as alt

    tables = Tables()
    edges = _edges(found, _BINS[layout])
    x = alt.Scale(domain=[edges[0], edges[-1]], nice=False, range=[0, layout.width])
    y = alt.Scale(domain=[0, len(found)], range=[0, _STEPS[layout] * len(found)])
    axis = alt.Axis(title=_TITLE if layout is WIDE else "nats/token; right is worse", tickCount=7)
    bars = tables.chart(_bars(found, edges)).mark_rect(opacity=0.85)
    drawn = bars.encode(
        alt.X("low:Q", scale=x, axis=axis),
        alt.X2("high:Q"),
        alt.Y("top:Q", scale=y, axis=None),
        alt.Y2("floor:Q"),
        alt.Color("color:N", scale=None),
    )
    chart = alt.layer(
        drawn, *_lines(found, edges, tables), _names(found, edges, layout, tables)
    ).properties(width=layout.width, height=_STEPS[layout] * len(found))
    label = "; ".join(_name(each) for each in found)
    return draw(chart, tables, chart_config(layout), label=label)


def _edges(found: Sequence[Moves], bins: int) -> np.ndarray:
    """Bins of one width, one edge of them at 0, that hold every document."""
    low = min(0.0, *(float(each.nats.min()) for each in found))
    high = max(0.0, *(float(each.nats.max()) for each in found))
    width = (high - low or 1.0) / (bins - 2)
    return width * np.arange(np.floor(low / width) - 1, np.ceil(high / width) + 2)


def _bars(found: Sequence[Moves], edges: np.ndarray) -> list[dict[str, float | str]]:
    rows: list[dict[str, float | str]] = []
    for row, each in enumerate(found):
        counts, _ = np.histogram(each.nats, edges)
        for low, high, count in zip(edges, edges[1:], counts, strict=False):
            if count:
                rows.append({
                    "low": float(low), "high": float(high), "floor": row + 0.96,
                    "top": row + 0.96 - _BAR * count / counts.max(),
                    "color": "var(--bad)" if low + high > 0 else "var(--good)",
                })  # fmt: skip
    return rows


def _lines(found: Sequence[Moves], edges: np.ndarray, tables: Tables) -> list[alt.Chart]:
    import altair as alt

    floors = [
        {"low": float(edges[0]), "high": float(edges[-1]), "y": row + 0.96}
        for row in range(len(found))
    ]
    medians = [
        {"x": float(np.median(each.nats)), "y": row + 0.42, "y2": row + 1.0}
        for row, each in enumerate(found)
    ]
    zero = [{"x": 0.0, "y": 0.0, "y2": float(len(found))}]
    return [
        tables.chart(floors).mark_rule(color="var(--line)").encode(
            alt.X("low:Q"), alt.X2("high:Q"), alt.Y("y:Q")
        ),
        tables.chart(zero).mark_rule(color="var(--muted)").encode(
            alt.X("x:Q"), alt.Y("y:Q"), alt.Y2("y2:Q")
        ),
        tables.chart(medians).mark_rule(color="var(--ink)", strokeWidth=2).encode(
            alt.X("x:Q"), alt.Y("y:Q"), alt.Y2("y2:Q")
        ),
    ]  # fmt: skip


def _names(found: Sequence[Moves], edges: np.ndarray, layout: Layout, tables: Tables) -> alt.Chart:
    import altair as alt

    rows = [
        {
            "x": float(edges[0]),
            "y": row + (0.24 if layout is WIDE else 0.16) + 0.2 * line,
            "name": text,
        }
        for row, each in enumerate(found)
        for line, text in enumerate([_name(each)] if layout is WIDE else _name(each).split(": "))
    ]
    text = tables.chart(rows).mark_text(align="left", fontSize=13, limit=layout.width)
    return text.encode(alt.X("x:Q"), alt.Y("y:Q"), alt.Text("name:N"))


def _name(each: Moves) -> str:
    return clean(each.words, longest=200).replace("\n", " ")
