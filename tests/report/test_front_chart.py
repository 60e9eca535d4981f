"""The picture of size against quality: names that cover nothing, a line through the best."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evalkit.report.html.charts import NARROW, WIDE
from evalkit.report.html.front_chart import front_chart
from evalkit.report.html.labels import place_labels
from evalkit.report.trade_off import TradeOff, trade_off

CHARACTER, LINE = 7.3, 17.0


def box(label):
    size = len(label.text) * CHARACTER
    start = label.x if label.align == "left" else label.x - size
    return start, label.y - LINE / 2, start + size, label.y + LINE / 2


def overlap(one, other):
    return (
        min(one[2], other[2]) - max(one[0], other[0]) > 1e-6
        and min(one[3], other[3]) - max(one[1], other[1]) > 1e-6
    )


def test_names_of_equal_points_stand_apart_and_cover_no_point():
    points = [(f"variant {n}", 60.0, 200.0) for n in range(6)] + [("other", 66.0, 205.0)]
    labels = place_labels(points, width=300, height=400)
    boxes = [box(label) for label in labels]
    for index, one in enumerate(boxes):
        assert not any(overlap(one, other) for other in boxes[index + 1 :])
        for _, x, y in points:
            assert not overlap(one, (x - 5, y - 5, x + 5, y + 5))
    assert [label.is_moved for label in labels].count(False) <= 2
    assert [label.text for label in labels] == [name for name, _, _ in points]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 820), st.floats(0, 380)), min_size=1, max_size=8),
    st.integers(1, 90),
)
def test_every_name_lies_inside_the_picture(places, length):
    points = [("n" * length, x, y) for x, y in places]
    for label in place_labels(points, width=820, height=380):
        left, _, right, _ = box(label)
        assert left >= -1e-6
        assert right <= 820 + 1e-6


def test_names_keep_off_the_lines():
    line = (0.0, 95.0, 300.0, 105.0)
    (label,) = place_labels([("a", 100.0, 100.0)], width=300, height=200, lines=[line])
    assert not overlap(box(label), line)


@pytest.mark.parametrize("layout", [WIDE, NARROW])
def test_every_variant_is_named_once(made_up, layout):
    svg = front_chart(trade_off(made_up.costly_run()), layout=layout)
    texts = re.findall(r"<text[^>]*>([^<]+)</text>", svg)
    for variant in made_up.costly_run().variants:
        assert texts.count(variant.name) == 1, variant.name
    assert "bits/byte, lower is better" in texts
    assert "weights on disk (MB), smaller is better" in texts
    assert "http" not in svg.replace("http://www.w3.org/2000/svg", "")


def test_sizes_far_apart_get_a_logarithmic_axis():
    points = {"small": (1e6, 1.2), "large": (1e9, 1.0)}
    svg = front_chart(TradeOff("perplexity", points, ("small", "large")), layout=WIDE)
    assert "weights on disk (GB)" in svg
    places = [float(x) for x in re.findall(r"translate\(([\d.]+),[\d.]+\)\" d=\"M", svg)]
    assert len(places) >= 2


def test_one_size_and_one_quality_is_no_division_by_zero():
    points = {"a": (1e8, 1.0), "b": (1e8, 1.0)}
    svg = front_chart(TradeOff("perplexity", points, ("a", "b")), layout=NARROW)
    assert ">a</text>" in svg
    assert ">b</text>" in svg


def test_hostile_names_are_escaped():
    points = {"<script>alert(1)</script>": (1e8, 1.0), "\x1b[2J' onload='x": (2e8, 0.9)}
    svg = front_chart(TradeOff("perplexity", points, tuple(points)), layout=WIDE)
    assert "<script" not in svg
    assert "&lt;script&gt;" in svg
    assert "\x1b" not in svg
