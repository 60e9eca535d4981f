"""Divergence in words: on the page, on the terminal and in Markdown. Values are made up."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from evalkit.records import JobRecord
from evalkit.report.divergence_view import DELTA_P_PERCENTILES, KL_PERCENTILES, divergence_view
from evalkit.report.flips_view import flip_rows
from evalkit.report.html import render_html
from evalkit.report.markdown.summary import markdown
from evalkit.report.notes import notes_of
from evalkit.report.terminal.summary import render_run
from evalkit.report.view import metric_table
from evalkit.scoring import divergence_summary


def printed(run, width):
    out = io.StringIO()
    render_run(run, Console(file=out, width=width))
    return out.getvalue()


def test_every_percentile_that_is_measured_is_shown():
    """The names are those under which the readings are stored."""
    names = divergence_summary._NAMES
    for shown, measured in (
        (KL_PERCENTILES, divergence_summary.KL_PERCENTILES),
        (DELTA_P_PERCENTILES, divergence_summary.DELTA_P_PERCENTILES),
    ):
        assert shown == tuple(names.get(share, f"{share:g}") for share in measured)


def test_all_that_llama_cpp_prints_is_there(made_up):
    view = divergence_view(made_up.detailed())
    assert view.reference == "fp16"
    assert (view.error_bound, view.written) == ("2.6e−4", "812 MB")
    assert view.names == ("nf4", "nf4+adapter", "merged-4bit", "dequant-merged", "requantized",
                          "fp16-merged-nf4")  # fmt: skip
    read = {(title, line.label): line.values[0] for title, group in view.groups for line in group}
    kl, perplexity, delta = "KL divergence, nats/token", "Perplexity", "Δp of the token that came"
    assert read[kl, "mean"] == "0.100 ± 0.003"
    assert read[kl, "maximum"] == "0.800"
    assert read[kl, "median"] == "0.0222"
    assert read[kl, "can be off by"] == "2.60e−4"
    assert read[perplexity, "correlation of ln PPL"] == "97.00 %"
    assert read[perplexity, "ln PPL ratio"] == "0.0488 ± 0.0020"
    assert read[perplexity, "PPL ratio"] == "1.0500 ± 0.0020"
    assert read[perplexity, "PPL difference"] == "0.730 ± 0.030"
    assert read[delta, "mean"] == "−1.000 ± 0.100 %"
    assert read[delta, "root mean square"] == "12.000 ± 0.200 %"
    assert read[delta, "minimum"] == "−75.00 %"
    assert read[delta, "same top token"] == "88.00 ± 0.40 %"
    assert len(read) == 6 + 12 + 16


def test_the_page_has_the_section(made_up):
    html = render_html(made_up.detailed())
    assert "How far predictions moved" in html
    assert "can move a mean by 2.6e−4" in html
    assert "How far predictions moved" not in render_html(made_up.run())


def test_in_lockstep_nothing_was_rounded(made_up):
    exact = made_up.divergence(0.1)
    exact = replace(exact, extra={**exact.extra, "kl_error_bound": 0.0})
    variants = tuple(
        replace(v, scores={**v.scores, "divergence": exact}) if v.name != "fp16" else v
        for v in made_up.run().variants
    )
    run = made_up.detailed(variants=variants, references=())
    assert divergence_view(run).error_bound == ""
    assert "nothing was rounded" in render_html(run)
    assert "of the exact one" not in printed(run, 80)


def test_the_reference_is_the_reference_and_not_unscored(made_up):
    table = metric_table(made_up.detailed(), "divergence")
    assert table.reference == "fp16"
    assert [(row.value, row.change, row.problem) for row in table.rows][:2] == [
        ("reference", "reference", ""),
        ("0.100", "", ""),
    ]
    (line,) = [x for x in markdown(made_up.detailed()).splitlines() if x.startswith("| `fp16` ")]
    assert "| reference |" in line
    assert "not scored" not in line


def test_a_reference_that_failed_is_no_reference(made_up):
    run = made_up.detailed()
    failed = replace(run.variants[0], scores={}, job=JobRecord("s", "score", "failed", 1.0, "why"))
    table = metric_table(replace(run, variants=(failed, *run.variants[1:])), "divergence")
    assert table.rows[0].problem == "why"


def test_a_variant_that_was_not_measured_says_so(made_up):
    first, nf4, *rest = made_up.detailed().variants
    lost = replace(nf4, scores={"perplexity": nf4.scores["perplexity"]})
    view = divergence_view(made_up.detailed(variants=(first, lost, *rest)))
    assert (view.rows[0].mean, view.rows[0].problem) == ("–", "not measured")
    assert "nf4" not in view.names


def test_a_reference_job_that_failed_is_a_note(made_up):
    job = JobRecord("reference fp16", "reference", "failed", 1.0, error="the disk is full\nmore")
    (note,) = [n for n in notes_of(made_up.run(references=(job,))) if "Divergence" in n]
    assert note == "Divergence was not measured: reference fp16: the disk is full."


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_the_terminal_has_a_compact_table(made_up, width):
    text = printed(made_up.detailed(), width)
    # But for the command, which is there to be copied.
    lines = [line for line in text.splitlines() if not line.startswith("  evalkit export ")]
    assert all(len(line) <= width for line in lines)
    assert "0.100 ± 0.003" in text
    assert ("PPL ratio" in text) == (width >= 100)
    flowing = " ".join(text.split())
    assert "each mean is within 2.6e−4 of the exact one" in flowing
    if width >= 80:
        assert "nf4 0.100 ± 0.003 0.0222 0.0889 88.00 ± 0.40 %" in flowing


def test_markdown_folds_the_table(made_up):
    text = markdown(made_up.detailed()).replace("\N{NO-BREAK SPACE}", " ")
    start = text.index("<details><summary>How far predictions moved")
    assert "| `nf4` | 0.100 ± 0.003 | 0.0222 | 0.0889 | 0.800 | 88.00 ± 0.40 % |" in text[start:]


# ------------------------------------------------------------------------------ flips


def test_flips_are_against_the_reference(made_up):
    (row,) = flip_rows(made_up.detailed())
    assert (row.metric, row.samples, row.reference) == ("blimp/acc", 40, "fp16")
    assert row.cells[:3] == ("reference", "+0 −1, p = 1", "+0 −2, p = 0.5")


def test_gained_and_lost_are_not_mixed_up(made_up):
    """Exact McNemar of 1 gained, 5 lost: 2 * (1 + 6) / 2**6."""
    base, other = made_up.accuracy({0}), made_up.accuracy({1, 2, 3, 4, 5})
    first, second, *_ = made_up.run().variants
    run = made_up.run(
        variants=(
            replace(first, scores={"blimp/acc": base}),
            replace(second, scores={"blimp/acc": other}),
        )
    )
    (row,) = flip_rows(run)
    assert row.cells == ("reference", "+1 −5, p = 0.22")
    html = render_html(run).replace("\N{NO-BREAK SPACE}", " ")
    assert "Answers that changed" in html
    assert "+1 −5, p = 0.22" in html


def test_other_samples_do_not_flip(made_up):
    first, second, *_ = made_up.run().variants
    other = replace(made_up.accuracy({1}), comparison={"task": "other", "prompts": "p"})
    scores = ({"t/acc": made_up.accuracy({0})}, {"t/acc": other})
    variants = (replace(first, scores=scores[0]), replace(second, scores=scores[1]))
    assert flip_rows(made_up.run(variants=variants))[0].cells[1] == "not comparable"
    assert flip_rows(made_up.run()) == []
