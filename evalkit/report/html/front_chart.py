"""Size against quality as a picture: every variant a point, the front a line through the best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from markupsafe import Markup

from evalkit.report.html.charts import NARROW, WIDE, Layout, Tables, chart_config, draw
from evalkit.report.html.labels import Label, place_labels
from evalkit.report.trade_off import TradeOff
from evalkit.report.words import clean

if TYPE_CHECKING:
    import altair as alt

_LOG_FROM = 8.0
"""Largest over smallest size, from which a linear axis would squeeze the small ones together."""
_HEIGHTS = {WIDE: 380, NARROW: 420}
_TITLE = "bits/byte, lower is better"


@dataclass(frozen=True)
class _Axis:
    """A scale that this module knows as well as Vega does, to place names in pixels."""

    low: float
    high: float
    is_log: bool
    pixels: float
    upwards: bool

    def place(self, value: float) -> float:
        low, high, at = (self._bent(each) for each in (self.low, self.high, value))
        share = (at - low) / (high - low)
        return self.pixels * (1 - share if self.upwards else share)

    def value(self, pixel: float) -> float:
        low, high = self._bent(self.low), self._bent(self.high)
        share = pixel / self.pixels
        at = low + (high - low) * (1 - share if self.upwards else share)
        return math.exp(at) if self.is_log else at

    def _bent(self, value: float) -> float:
        return math.log(value) if self.is_log else value


def front_chart(found: TradeOff, *, layout: Layout) -> Markup:
    """Draws bytes on the disk against bits per byte, every variant named.

    Args:
        found: at least two points.
        layout: `WIDE` or `NARROW`.

    Returns:
        An `<svg>` element to put into a page, every name in it escaped.
    """
    import altair as alt

    tables = Tables()
    width, height = layout.width - 80, _HEIGHTS[layout]
    unit, size = _unit(max(disk for disk, _ in found.points.values()))
    points = {name: (disk / size, bits) for name, (disk, bits) in found.points.items()}
    x = _axis([at for at, _ in points.values()], width, upwards=False)
    y = _axis([at for _, at in points.values()], height, upwards=True)
    chart = alt.layer(
        *_line([points[name] for name in found.front], x, y, unit, layout, tables),
        *_names(points, found.front, x, y, tables),
        *_points(points, found.front, x, y, tables),
    ).properties(width=width, height=height)
    label = f"weights on disk ({unit}) against {_TITLE}"
    return draw(chart, tables, _config(layout), label=label)


def _line(
    front: Sequence[tuple[float, float]],
    x: _Axis,
    y: _Axis,
    unit: str,
    layout: Layout,
    tables: Tables,
) -> list[alt.Chart]:
    """The front as stairs: what lies above and to the right of it is beaten. It has the axes."""
    import altair as alt

    rows = [{"x": at, "y": bits} for at, bits in _stairs(front, x, y)]
    horizontal = alt.Axis(
        title=f"weights on disk ({unit}), smaller is better", tickCount=layout.ticks
    )
    vertical = alt.Axis(title=_TITLE, tickCount=6)
    stairs = tables.chart(rows).mark_line(strokeWidth=1.5, strokeDash=[4, 3], color="var(--muted)")
    return [
        stairs.encode(
            alt.X("x:Q", scale=_scale(x), axis=horizontal),
            alt.Y("y:Q", scale=_scale(y), axis=vertical),
        )
    ]


def _stairs(front: Sequence[tuple[float, float]], x: _Axis, y: _Axis) -> list[tuple[float, float]]:
    """From the top down to the first point, along the front, from the last one to the right."""
    corners = [(front[0][0], y.high), front[0]]
    for (_, before), (at, bits) in pairwise(front):
        corners += [(at, before), (at, bits)]
    return [*corners, (x.high, front[-1][1])]


def _points(
    points: dict[str, tuple[float, float]],
    front: Sequence[str],
    x: _Axis,
    y: _Axis,
    tables: Tables,
) -> list[alt.Chart]:
    import altair as alt

    layers = []
    for is_front in (False, True):
        rows = [
            {"x": at, "y": bits} for name, (at, bits) in points.items()
            if (name in front) is is_front
        ]  # fmt: skip
        mark = tables.chart(rows).mark_point(
            filled=True, opacity=1, size=110, strokeWidth=2,
            fill="var(--ink)" if is_front else "var(--page)",
            stroke="var(--ink)" if is_front else "var(--neutral)",
        )  # fmt: skip
        layers.append(mark.encode(alt.X("x:Q", scale=_scale(x)), alt.Y("y:Q", scale=_scale(y))))
    return layers


def _names(
    points: dict[str, tuple[float, float]],
    front: Sequence[str],
    x: _Axis,
    y: _Axis,
    tables: Tables,
) -> list[alt.Chart]:
    import altair as alt

    shown = [
        (clean(name, longest=200).replace("\n", " "), x.place(at), y.place(bits))
        for name, (at, bits) in points.items()
    ]
    corners = _stairs([points[name] for name in front], x, y)
    boxes = [
        (min(a, c), min(b, d), max(a, c), max(b, d))
        for (a, b), (c, d) in pairwise([(x.place(at), y.place(bits)) for at, bits in corners])
    ]
    labels = place_labels(shown, width=x.pixels, height=y.pixels, lines=boxes)
    leaders = [
        _leader(at, label, x, y, tables)
        for at, label in zip(points.values(), labels, strict=True)
        if label.is_moved
    ]
    rows: dict[tuple[Literal["left", "right"], bool], list[dict[str, object]]] = {}
    for name, label in zip(points, labels, strict=True):
        row = {"x": x.value(label.x), "y": y.value(label.y), "name": label.text}
        rows.setdefault((label.align, name in front), []).append(row)
    texts = [
        tables.chart(same)
        .mark_text(align=align, baseline="middle", fontSize=13, fontWeight=600 if bold else 400)
        .encode(alt.X("x:Q"), alt.Y("y:Q"), alt.Text("name:N"))
        for (align, bold), same in rows.items()
    ]
    return leaders + texts


def _leader(
    point: tuple[float, float], label: Label, x: _Axis, y: _Axis, tables: Tables
) -> alt.Chart:
    import altair as alt

    end = label.x - 3 if label.align == "left" else label.x + 3
    row = {"x": point[0], "y": point[1], "x2": x.value(end), "y2": y.value(label.y)}
    line = tables.chart([row]).mark_rule(color="var(--muted)", strokeWidth=0.75)
    return line.encode(alt.X("x:Q"), alt.Y("y:Q"), alt.X2("x2:Q"), alt.Y2("y2:Q"))


def _axis(values: Sequence[float], pixels: float, *, upwards: bool) -> _Axis:
    low, high = min(values), max(values)
    if not upwards and low > 0 and high / low > _LOG_FROM:
        return _Axis(low / 1.3, high * 1.3, True, pixels, upwards)
    span = (high - low) or abs(high) or 1.0
    return _Axis(low - 0.1 * span, high + 0.1 * span, False, pixels, upwards)


def _scale(axis: _Axis) -> alt.Scale:
    import altair as alt

    return alt.Scale(
        type="log" if axis.is_log else "linear",
        domain=[axis.low, axis.high],
        zero=False,
        nice=False,
    )


def _unit(largest: float) -> tuple[str, float]:
    sizes = (("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
    return next(((unit, size) for unit, size in sizes if largest >= size), ("bytes", 1.0))


def _config(layout: Layout) -> dict[str, object]:
    config = chart_config(layout)
    horizontal = config["axisX"]
    assert isinstance(horizontal, dict)
    vertical = {
        **horizontal, "titleAngle": 0, "titleAlign": "left", "titleAnchor": "end",
        "titleX": 0, "titleY": -10, "titleBaseline": "bottom",
    }  # fmt: skip
    return {**config, "axisY": vertical, "padding": {"left": 2, "right": 2, "top": 12, "bottom": 6}}
