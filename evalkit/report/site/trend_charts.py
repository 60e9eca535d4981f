"""The trend chart as a Vega-Lite specification, drawn by Vega-Altair, and its colours.

The page draws it: the script puts in the rows, the width and the ticks. Nothing that anyone wrote
(names, revisions) goes into a specification; the page shows those itself, as text.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from evalkit.records import JsonObject

if TYPE_CHECKING:
    import altair as alt

# Okabe and Ito's colours, moved until each has 3:1 against the page (WCAG 1.4.11).
LIGHT = ("#00558f", "#c24a00", "#007a5a", "#a3457e", "#8a6500", "#3a8fc4", "#14181d", "#6d7000")
DARK = ("#5ab0ee", "#ff8a4c", "#2fc498", "#e79bc4", "#f0b429", "#a9dbf7", "#e9ecef", "#e8e06a")
_SHAPES = (
    "circle",
    "square",
    "triangle-up",
    "diamond",
    "cross",
    "triangle-down",
    "stroke",
    "wedge",
)
_DASHES = ([1, 0], [7, 3], [2, 2], [7, 2, 2, 2])
MOST_VARIANTS = len(LIGHT) * len(_DASHES)
"""Variants that colours and dashes can tell apart; the charts show no more."""
HEIGHT = 260

_INKS = {
    "light": {"ink": "#14181d", "muted": "#57606b", "line": "#dfe3e8", "page": "#ffffff"},
    "dark": {"ink": "#e9ecef", "muted": "#a3adb8", "line": "#2c343c", "page": "#101418"},
}


def line_style(index: int) -> tuple[int, list[int]]:
    """Which colour a variant's line has, and its dashes: solid for the first eight."""
    return index % len(LIGHT), _DASHES[index // len(LIGHT) % len(_DASHES)]


@cache
def trend_spec(*, log: bool) -> JsonObject:
    """The chart of one metric over runs, without its data.

    It reads three data sets. `rows` has `x` (place of the run), `y`, `low`, `high`, `c` (colour,
    0–7), `d` (dashes, 0–3), `s` (which stretch of which line) and flags: `p` draws a point, `a` an
    interval that no band can show, `b` a baseline's ring. `breaks` and `marks` have `x`.
    """
    import altair as alt

    rows = alt.Chart(alt.NamedData("rows"))
    x = alt.X("x:Q", scale=alt.Scale(nice=False, zero=False), title=None)
    scale = alt.Scale(type="log", nice=False) if log else alt.Scale(zero=False, nice=True)
    y = alt.Y("y:Q", scale=scale, title=None)
    color = alt.Color("c:N", scale=alt.Scale(domain=list(range(len(LIGHT)))), legend=None)
    dash = alt.StrokeDash(
        "d:N", scale=alt.Scale(domain=list(range(len(_DASHES))), range=list(_DASHES)), legend=None
    )
    shape = alt.Shape(
        "c:N", scale=alt.Scale(domain=list(range(len(LIGHT))), range=list(_SHAPES)), legend=None
    )
    ends = {"x": x, "y": alt.Y("low:Q", scale=scale, title=None), "y2": "high:Q", "color": color}
    layers = [
        _rules("breaks", "break"),
        _rules("marks", "mark"),
        rows.mark_area(opacity=0.13, line=False).encode(**ends, detail="s:N"),
        rows.mark_rule(opacity=0.7, strokeWidth=2).encode(**ends).transform_filter("datum.a"),
        rows.mark_line(strokeWidth=1.75).encode(
            x=x, y=y, color=color, strokeDash=dash, detail="s:N"
        ),
        rows.mark_point(filled=True, opacity=1, size=36)
        .encode(x=x, y=y, color=color, shape=shape)
        .transform_filter("datum.p"),
        rows.mark_point(filled=False, opacity=1, size=150, strokeWidth=1.75)
        .encode(x=x, y=y, color=color)
        .transform_filter("datum.b"),
    ]
    spec: JsonObject = alt.layer(*layers).properties(height=HEIGHT).to_dict()
    return spec


def _rules(data: str, style: str) -> alt.Chart:
    import altair as alt

    return alt.Chart(alt.NamedData(data)).mark_rule(style=style).encode(x=alt.X("x:Q", title=None))


def config(scheme: str) -> JsonObject:
    """Vega-Lite's configuration for a light or a dark page."""
    inks = _INKS[scheme]
    axis: dict[str, Any] = {
        "labelColor": inks["muted"],
        "labelFontSize": 12,
        "domain": False,
        "ticks": False,
        "labelPadding": 8,
        "gridColor": inks["line"],
    }
    return {
        "background": None,
        "font": "Inter, system-ui, -apple-system, 'Segoe UI', Roboto, Arial, sans-serif",
        "view": {"stroke": None},
        "axis": axis,
        "axisX": {"grid": False, "labelFlush": False, "labelOverlap": True},
        "axisY": {"tickCount": 5},
        "range": {"category": list(LIGHT if scheme == "light" else DARK)},
        "style": {
            "break": {"color": inks["muted"], "strokeDash": [2, 4]},
            "mark": {"color": inks["muted"], "strokeWidth": 1.5},
        },
    }


@cache
def bundle() -> str:
    """Vega, Vega-Lite and vega-embed as one script: 0.9 MB, read once in a process."""
    import vl_convert

    # Its stub asks for an argument that is optional.
    return str(vl_convert.javascript_bundle())  # type: ignore[call-arg]
