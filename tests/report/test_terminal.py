"""The terminal's view at several widths."""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import replace

import pytest
from rich.console import Console

from evalkit.report.terminal.summary import render_run


def printed(run, width: int, **options) -> str:
    out = io.StringIO()
    render_run(run, Console(file=out, width=width, **options))
    return out.getvalue()


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_no_line_is_wider_than_the_terminal(made_up, width):
    *lines, command = printed(made_up.run(), width).splitlines()
    for line in lines:
        assert len(line) <= width
    # A command is there to be copied.
    assert command.startswith("  evalkit export fp16-merged-nf4 ./fp16-merged-nf4 --run 2026")


@pytest.mark.parametrize("width", [48, 80, 120])
def test_the_sentence_comes_last_and_the_values_are_there(made_up, width):
    text = printed(made_up.run(), width)
    flowing = " ".join(text.split())
    sentence = "over nf4+adapter and is back at nf4's level."
    last = flowing.partition(sentence)[2].strip()
    assert last.startswith("Recommended: fp16-merged-nf4 – passes its gates; 4 bits a weight")
    for words in ("14.59 ± 0.50", "+29.3 %", "REGRESSED", "as expected", "+66.7 %"):
        assert words in flowing


def test_a_wide_terminal_shows_more(made_up):
    assert "bits/byte" in printed(made_up.run(), 120).partition("\n")[0]
    assert "bits/byte" not in printed(made_up.run(), 80).partition("\n")[0]


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
        ("evalkit.report.terminal.summary", ("torch", "altair", "vl_convert", "jinja2", "scipy")),
        ("evalkit.report.json.run", ("torch", "altair", "vl_convert", "jinja2", "rich")),
        ("evalkit.report.html.page", ("torch", "transformers", "altair")),
    ],
)
def test_importing_stays_light(module, unwanted):
    code = f"import sys, {module}; print([m for m in {unwanted} if m in sys.modules])"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


def test_the_steps_end_with_one_path_in_words(made_up):
    text = " ".join(printed(made_up.costly_run(), 80).split())
    path = "Perplexity from fp16 to merged-4bit: quantisation +29 %, fine-tuning −41 %, 4-bit merge"
    assert text.index("from → to") < text.index(path) < text.index("note: ")


def test_steps_show_bits_per_byte_where_there_is_room(made_up):
    def title(width):
        lines = printed(made_up.costly_run(), width).splitlines()
        return next(line for line in lines if line.startswith("from → to"))

    assert "bits/byte, 95 % CI" in title(120)
    assert "bits/byte" not in title(80)
