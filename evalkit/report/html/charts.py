"""Static charts as SVG: drawn by Vega-Altair, rendered by vl-convert, styled by the page.

A static SVG needs no script, so the page can forbid every script. Colours are CSS variables of the
page (`var(--ink)`), which is what makes one drawing right in light and dark. Altair and vl-convert
are imported inside the function: a report without scores does without them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from markupsafe import Markup, escape

from evalkit.report.words import clean, figure

if TYPE_CHECKING:
    import altair as alt

Shape = Literal["circle", "diamond", "triangle-up", "square"]
_LOG_FROM = 8.0
"""Largest value over smallest, from which a linear axis would squeeze the small ones together."""
_FONT_SIZE = 13


@dataclass(frozen=True)
class Dot:
    """One row of a dot plot: a value with its 95 % interval."""

    name: str
    value: float
    low: float
    high: float
    color: str
    """A CSS colour, as 'var(--good)'."""
    shape: Shape
    shown: str = ""
    """The value in words, where `figure` has too few digits for it."""


@dataclass(frozen=True)
class Layout:
    """Sizes in pixels; the page shows one layout on wide screens and the other on narrow ones."""

    width: int
    step: int
    """Height of a row."""
    left: int
    """Where the scale begins; names stand left of it, or above where it is 0."""
    ticks: int


WIDE = Layout(width=900, step=34, left=210, ticks=8)
NARROW = Layout(width=340, step=50, left=0, ticks=4)


def dot_plot(dots: Sequence[Dot], *, title: str, layout: Layout) -> Markup:
    """Draws values with intervals, one row each, in the order given.

    Args:
        dots: at least one; values on one scale.
        title: of the axis: what is measured, in which unit, and which way is better.
        layout: `WIDE` or `NARROW`.

    Returns:
        An `<svg>` element to put into a page, every name in it escaped.
    """
    tables = Tables()
    chart = _layers(dots, title, layout, tables).properties(
        width=layout.width, height=layout.step * len(dots)
    )
    return draw(chart, tables, chart_config(layout), label=title)


class Tables:
    """The rows that a picture draws, beside its charts: Altair copies whatever is in those."""

    def __init__(self) -> None:
        self.rows: dict[str, Sequence[Mapping[str, object]]] = {}

    def chart(self, rows: Sequence[Mapping[str, object]]) -> alt.Chart:
        """A chart of these rows, with no mark yet."""
        import altair as alt

        name = f"rows-{len(self.rows)}"
        self.rows[name] = rows
        return alt.Chart(alt.NamedData(name=name))


def draw(chart: alt.LayerChart, tables: Tables, config: dict[str, object], *, label: str) -> Markup:
    """A chart as an `<svg>` element for a page.

    Args:
        chart: whose every part Altair has checked when it was made.
        tables: its rows.
        config: Vega's, as `chart_config` makes it.
        label: what the picture shows, for those who do not see it.
    """
    import vl_convert

    spec = chart.configure(**config).to_dict(validate=False)
    spec["datasets"] = tables.rows
    return embeddable(vl_convert.vegalite_to_svg(spec, allowed_base_urls=[]), label=label)


def _layers(dots: Sequence[Dot], title: str, layout: Layout, tables: Tables) -> alt.LayerChart:
    import altair as alt

    rows = [_row(index, dot) for index, dot in enumerate(dots)]
    base = tables.chart(rows).encode(alt.Y("row:O", axis=None))
    drop = 0 if layout.left else 9
    axis = alt.Axis(title=title, tickCount=layout.ticks, labelFlush=False)
    x = alt.X("value:Q", scale=_scale(dots, layout), axis=axis)
    color = alt.Color("color:N", scale=None)
    intervals = base.mark_rule(strokeWidth=2, yOffset=drop).encode(
        alt.X("low:Q"), alt.X2("high:Q"), color
    )
    points = base.mark_point(filled=True, size=120, opacity=1, yOffset=drop).encode(
        x, color, alt.Shape("shape:N", scale=None)
    )
    values = base.mark_text(
        align="left", dx=10, fontSize=_FONT_SIZE, fontWeight=600, yOffset=drop
    ).encode(alt.X("high:Q"), alt.Text("shown:N"))
    names = base.mark_text(
        align="left", fontSize=_FONT_SIZE, limit=(layout.left or layout.width) - 14,
        yOffset=0 if layout.left else -13,
    ).encode(alt.XValue(0), alt.Text("name:N"))  # fmt: skip
    return alt.layer(intervals, points, values, names)


def _row(index: int, dot: Dot) -> dict[str, float | int | str]:
    return {
        "row": index,
        "name": clean(dot.name, longest=200).replace("\n", " "),
        "value": dot.value,
        "low": dot.low,
        "high": dot.high,
        "shown": dot.shown or figure(dot.value),
        "color": dot.color,
        "shape": dot.shape,
    }


def _scale(dots: Sequence[Dot], layout: Layout) -> alt.Scale:
    import altair as alt

    low, high = min(dot.low for dot in dots), max(dot.high for dot in dots)
    kind = "log" if low > 0 and high / low > _LOG_FROM else "linear"
    span = (high - low) or abs(high) or 1.0
    # A little room on the left, so that no dot sits on the edge; the values stand on the right.
    start = low * 0.9 if kind == "log" else low - 0.04 * span
    return alt.Scale(
        type=kind, zero=False, nice=False, domain=[start, high],
        range=[layout.left, layout.width - 64],
    )  # fmt: skip


def chart_config(layout: Layout) -> dict[str, object]:
    """Vega's configuration of every chart here: the page's colours, hardly any frame."""
    return {
        "aria": False,
        "background": "transparent",
        "font": "inherit",
        "padding": {"left": 2, "right": 2, "top": 6, "bottom": 6},
        "view": {"stroke": None},
        "text": {"color": "var(--ink)"},
        "axisX": {
            "gridColor": "var(--line)",
            "domain": False,
            "ticks": False,
            "labelColor": "var(--muted)",
            "labelFontSize": 12,
            "labelPadding": 8,
            "titleColor": "var(--muted)",
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "titlePadding": 10,
            "titleAnchor": "end" if layout.left else "start",
        },
    }


def embeddable(svg: str, *, label: str) -> Markup:
    """Drops the fixed size and the link to the XML namespace of links, and names the picture."""
    match = re.match(r"<svg\b[^>]*?viewBox=\"([\d. -]+)\"[^>]*>", svg)
    if match is None:
        raise ValueError("vl-convert returned something that is no SVG")
    width = float(match.group(1).split()[2])
    opening = Markup(
        '<svg class="chart" xmlns="http://www.w3.org/2000/svg" viewBox="{}" '
        'style="max-width:{:.0f}px" role="img" aria-label="{}">'
    ).format(match.group(1), width, escape(label))
    return opening + Markup(svg[match.end() :])
