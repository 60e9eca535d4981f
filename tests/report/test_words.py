"""Numbers and untrusted text in words."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from evalkit.records import Budget, Gate, Verdict
from evalkit.report import words


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5.1744, "5.174"), (14.588, "14.59"), (204.16, "204.2"), (3712.4, "3,712"),
        (0.0, "0.000"), (-0.25, "−0.250"), (2.5e9, "2.500e+09"), (1e-5, "1.000e-05"),
    ],
)  # fmt: skip
def test_figure(value, text):
    assert words.figure(value) == text


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(0.667, "+66.7 %"), (-0.00213, "−0.21 %"), (0.0, "0.00 %"), (52.0, "+5,200 %")],
)
def test_percent(fraction, text):
    assert words.percent(fraction, signed=True) == text


@pytest.mark.parametrize(
    ("interval", "effect", "shown"),
    [
        ((0.62, 0.667, 0.72), "+67 %", "62–72 %"),
        ((0.0191, 0.03, 0.0411), "+3.0 %", "1.9–4.1 %"),
        ((0.00401, 0.00502, 0.00603), "+0.50 %", "0.40–0.60 %"),
        ((-0.004, 0.004, 0.012), "+0.4 %", "−0.4 to 1.2 %"),
    ],
)
def test_an_effect_shows_no_more_digits_than_its_interval_bears_out(
    made_up, interval, effect, shown
):
    verdict = made_up.verdict(made_up.SHIP_GATE, "PASS", interval)
    assert words.effect_words(verdict) == effect
    assert words.interval_words(verdict) == shown


def test_a_table_shows_a_decimal_more_so_that_no_bound_seems_to_hold_that_does_not(made_up):
    verdict = made_up.verdict(made_up.gate("a", "b", 0.30), "INCONCLUSIVE", (0.272, 0.288, 0.304))
    assert words.effect_words(verdict, precise=True) == "+28.8 %"
    assert words.interval_words(verdict, signed=True, precise=True) == "+27.2 to +30.4 %"


def test_points_and_absolute_effects(made_up):
    points = Gate("acc", "a", against="b", max_decrease=Budget(0.02, "points"))
    assert words.effect_words(made_up.verdict(points, "PASS", (-0.03, -0.012, 0.006))) == "−1 pp"
    assert words.rule_words(points) == "acc at most 2 pp below b"
    absolute = Gate("perplexity/wiki", "a", maximum=20.0)
    assert words.rule_words(absolute) == "perplexity on wiki at most 20"
    assert words.rule_words(Gate("acc", "a", minimum=0.5)) == "acc at least 0.5"


def test_clean_replaces_what_terminals_and_browsers_act_on():
    assert words.clean("a\x1b[31mb\x00c\ud800d\u202ee\tf\ng") == "a�[31mb�c�d�e\tf\ng"


def test_clean_bounds_a_text():
    shown = words.clean("x" * 1_000_000, longest=100)
    assert shown == "x" * 100 + "… (999,900 more characters)"


def test_first_line():
    assert words.first_line("disk full.\nmore") == "disk full"
    assert len(words.first_line("word " * 1000)) <= 161


@pytest.mark.parametrize(
    ("seconds", "text"), [(8.44, "8.4 s"), (252.0, "4 min 12 s"), (7500.0, "2 h 05 min")]
)
def test_duration(seconds, text):
    assert words.duration(seconds) == text


def test_bytes_words():
    assert words.bytes_words(67_257_504) == "67.3 MB"
    assert words.bytes_words(1_204_224_000) == "1.2 GB"
    assert words.bytes_words(999) == "999 B"


def test_joined():
    assert [words.joined(list("abc")[:n]) for n in range(4)] == ["", "a", "a and b", "a, b and c"]


def test_what_was_measured_and_not_sampled_has_no_interval():
    gate = Gate("survival", "merged", minimum=0.9)
    measured = Verdict(gate, "REGRESSED", ok=False, effect=0.007, low=0.007, high=0.007, n_units=0)
    assert words.interval_words(measured) == ""
    assert words.interval_words(replace(measured, low=0.005, high=0.01, n_units=40)) != ""


def test_an_endless_interval_is_told_as_one():
    assert words.change_words(0.2, -1.0, math.inf, "relative") == ("+20.0 %", "−100.0 to +∞ %")
    assert words.short_change(0.3126, "relative") == "+31 %"
    assert words.short_change(-0.0214, "points") == "−2.1 pp"
    assert words.short_change(0.2141, "absolute") == "+0.214"
    assert words.short_change(0.0, "relative") == "0 %"
