"""The terminal's view at several widths."""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import replace

import pytest
from rich.console import Console

from evalkit.report.terminal import render_run


def printed(run, width: int, **options) -> str:
    out = io.StringIO()
    render_run(run, Console(file=out, width=width, **options))
    return out.getvalue()


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_no_line_is_wider_than_the_terminal(made_up, width):
    for line in printed(made_up.run(), width).splitlines():
        assert len(line) <= width


@pytest.mark.parametrize("width", [48, 80, 120])
def test_the_sentence_comes_last_and_the_values_are_there(made_up, width):
    text = printed(made_up.run(), width)
    flowing = " ".join(text.split())
    assert flowing.endswith("over nf4+adapter and is back at nf4's level.")
    for words in ("14.59 ± 0.50", "+29.3 %", "REGRESSED", "as expected", "+66.7 %"):
        assert words in flowing


def test_a_wide_terminal_shows_more(made_up):
    assert "bits/byte" in printed(made_up.run(), 120)
    assert "bits/byte" not in printed(made_up.run(), 80)


def test_a_pipe_gets_no_escape_sequence(made_up):
    assert "\x1b" not in printed(made_up.run(), 100)
    assert "\x1b" in printed(made_up.run(), 100, force_terminal=True)
    assert "\x1b[3" not in printed(made_up.run(), 100, force_terminal=True, no_color=True)


def test_names_are_neither_markup_nor_escape_sequences(hostile_run):
    text = printed(hostile_run, 400)
    assert "\x1b" not in text
    assert "[bold red]not markup[/]" in text


def test_a_failed_variant_shows_why(made_up):
    variants = tuple(
        replace(v, scores={}, job=replace(v.job, status="failed", error="out of memory\nmore"))
        if v.name == "nf4"
        else v
        for v in made_up.run().variants
    )
    text = printed(made_up.run(variants=variants), 160)
    assert "out of memory" in text
    assert "more" not in text


def test_the_message_of_what_is_ok_is_left_out(made_up):
    ok = made_up.verdict(made_up.SHIP_GATE, "PASS", (0.0, 0.01, 0.02), message="all is well")
    bad = made_up.verdict(made_up.SHIP_GATE, "INCONCLUSIVE", (-1, 0.01, 2), message="add documents")
    text = printed(made_up.run(verdicts=(ok, bad)), 120)
    assert "add documents" in text
    assert "all is well" not in text


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("evalkit.report.terminal", ("torch", "altair", "vl_convert", "jinja2", "scipy")),
        ("evalkit.report.run_json", ("torch", "altair", "vl_convert", "jinja2", "rich")),
        ("evalkit.report.html", ("torch", "transformers", "altair")),
    ],
)
def test_importing_stays_light(module, unwanted):
    code = f"import sys, {module}; print([m for m in {unwanted} if m in sys.modules])"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"
