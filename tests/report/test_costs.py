"""Costs beside quality: the table in every form, what is marked, what is left out."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from evalkit.records import Gate
from evalkit.report.costs import cost_table
from evalkit.report.gate_text import figures
from evalkit.report.html import render_html
from evalkit.report.markdown.summary import LONGEST, markdown
from evalkit.report.sentence import verdict_sentence
from evalkit.report.terminal.summary import render_run
from evalkit.report.trade_off import trade_off
from evalkit.report.words import rule_words


def printed(run, width):
    out = io.StringIO()
    render_run(run, Console(file=out, width=width))
    return out.getvalue()


def with_scores(run, name, **scores):
    """The run with some scores of one variant replaced; None takes one away."""
    variants = []
    for variant in run.variants:
        if variant.name == name:
            kept = {**variant.scores, **scores}
            kept = {metric: score for metric, score in kept.items() if score is not None}
            variant = replace(variant, scores=kept)
        variants.append(variant)
    return replace(run, variants=tuple(variants))


def rows_of(run):
    table = cost_table(run)
    return {row.name: row for row in table.rows}


def test_a_row_says_everything_in_readable_units(made_up):
    row = rows_of(made_up.costly_run())["nf4+adapter"]
    assert (row.disk, row.memory, row.peak_memory) == ("111 MB", "113 MB", "447 MB")
    assert (row.parameters, row.trainable, row.trainable_share) == ("135 M", "4.88 M", "3.5 %")
    assert (row.load_seconds, row.scoring_speed, row.decode_speed) == ("2.31", "512", "14.2")
    assert row.bits_per_weight == "6.6 bits/weight"
    assert row.bits_per_byte == "0.966"


def test_a_variant_without_an_adapter_trained_nothing(made_up):
    row = rows_of(made_up.costly_run())["nf4"]
    assert (row.trainable, row.trainable_share) == ("", "")


def test_the_peak_of_training_is_the_devices_where_there_is_one(made_up):
    run = made_up.costly_run()
    assert cost_table(run).training == (("reference-style", "2.1 GB of the process"),)
    (job,) = run.adapters
    job = replace(job, facts={**job.facts, "peak_device_bytes": 5_300_000_000})
    found = cost_table(replace(run, adapters=(job,))).training
    assert found == (("reference-style", "5.3 GB on the device"),)


def test_without_costs_there_is_no_table_anywhere(made_up):
    run = made_up.run()
    assert cost_table(run) is None
    assert "Cost beside quality" not in render_html(run)
    assert "decoding" not in printed(run, 120)
    assert "decoding" not in markdown(run)


def test_what_was_not_measured_is_a_dash_and_no_zero(made_up):
    run = with_scores(made_up.costly_run(), "nf4", decode_speed=None, disk=None)
    row = rows_of(run)["nf4"]
    assert (row.decode_speed, row.disk, row.parameters, row.on_front) == ("", "", "", False)
    line = next(line for line in printed(run, 80).splitlines() if line.startswith("nf4   ")
                and "MB" in line)  # fmt: skip
    assert line.split() == ["nf4", "–", "94.1", "MB", "2.31", "512", "–"]


@pytest.mark.parametrize("width", [80, 72, 66, 40])
def test_the_terminals_table_fits(made_up, width):
    lines = printed(made_up.costly_run(), width).splitlines()
    start = next(index for index, line in enumerate(lines) if "tok/s*" in line or "disk" in line)
    table = lines[start : start + 12]
    assert max(map(len, table)) <= width
    assert ("memory" in lines[start]) is (width >= 66)


def test_timed_figures_are_marked_as_read_off_once(made_up):
    run = made_up.costly_run()
    for text in (printed(run, 80), render_html(run), markdown(run)):
        flowing = " ".join(text.split())
        assert "read off once" in flowing
        for title in ("load s", "scoring tok/s", "decoding tok/s"):
            assert f"{title}*" in flowing.replace("\\*", "*")
        assert "disk*" not in flowing


def test_the_front_is_marked_in_every_form(made_up):
    run = made_up.costly_run()
    assert [row.name for row in cost_table(run).rows if row.on_front] == [
        "nf4+adapter", "fp16-merged-nf4",
    ]  # fmt: skip
    text = printed(run, 80)
    assert "nf4+adapter ◆" in text
    assert "merged-4bit ◆" not in text
    assert render_html(run).count('<span class="tag front held">') == 2
    assert "| yes |" in markdown(run)


def test_the_front_needs_both_measures_on_two_variants(made_up):
    run = made_up.costly_run()
    for variant in run.variants[1:]:
        run = with_scores(run, variant.name, disk=None)
    assert trade_off(run) is None
    assert not any(row.on_front for row in cost_table(run).rows)
    assert "beaten by another" not in render_html(run)


def test_the_front_against_its_definition(made_up):
    found = trade_off(made_up.costly_run())
    for name, (disk, bits) in found.points.items():
        beaten = any(
            other <= disk and others <= bits and (other, others) != (disk, bits)
            for other, others in found.points.values()
        )
        assert (name in found.front) is not beaten


def test_the_bits_are_of_the_perplexity_where_a_gate_judges_something_else(made_up):
    run = made_up.costly_run()
    gate = Gate("divergence", "nf4", maximum=1.0)
    verdict = made_up.verdict(gate, "PASS", (0.2, 0.25, 0.3))
    found = trade_off(replace(run, gates=(gate,), verdicts=(verdict,)))
    assert found.metric == "perplexity"


def test_a_limit_on_bytes_is_told_in_bytes(made_up):
    run = made_up.costly_run()
    gate = Gate("disk", "fp16", maximum=100e6)
    verdict = made_up.verdict(
        gate, "REGRESSED", (269030016.0, 269030016.0, 269030016.0), n_units=0, n_clusters=0
    )
    run = replace(run, gates=(gate,), verdicts=(verdict,))
    assert rule_words(gate) == "disk at most 100 MB"
    assert "fp16 comes to 269 MB (weights on disk), above the limit of 100 MB" in verdict_sentence(
        run
    )
    assert figures(run, verdict)["value"] == "269 MB"
    assert figures(run, verdict)["budget"] == "max 100 MB"


def test_hostile_names_stay_text(made_up, hostile_run, hostile_texts):
    variants = tuple(
        replace(v, scores={**v.scores, **made_up.costs(1e8 * (index + 1))})
        for index, v in enumerate(hostile_run.variants)
        if v.scores
    )
    run = replace(hostile_run, variants=variants)
    page = render_html(run)
    assert "Quality against bytes" in page
    assert "<script>alert" not in page
    assert "<img" not in page
    assert "\x1b" not in printed(run, 400)
    rendered = MarkdownIt("gfm-like", {"linkify": False, "html": True}).render(markdown(run))
    assert "<script" not in rendered
    assert "<img" not in rendered


def test_markdown_stays_under_githubs_limit(made_up):
    run = made_up.costly_run()
    many = tuple(replace(v, name=f"{v.name}-{'x' * 100}-{n}")
                 for n in range(60) for v in run.variants)  # fmt: skip
    text = markdown(replace(run, variants=many))
    assert len(text) <= LONGEST
    assert "Recommended" in markdown(run)
