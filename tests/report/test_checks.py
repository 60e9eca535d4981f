"""What checks found, and merges that lost their adapter, told from stored records."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evalkit.records.integrity import ModuleSurvival
from evalkit.report.checks import check_table, findings_of, merge_notes
from evalkit.report.facts import variant_named
from evalkit.report.html import render_html
from evalkit.report.json.run import run_json
from evalkit.report.notes import notes_of

STORED = [
    {"check": "finite", "ok": True, "message": "every number is finite"},
    {"check": "reload", "ok": False, "message": "scores otherwise"},
]


def checked(run, name, checks):
    """The run with these checks among the facts of one variant's job."""
    variants = tuple(
        replace(v, job=replace(v.job, facts={**v.job.facts, "checks": checks}))
        if v.name == name
        else v
        for v in run.variants
    )
    return replace(run, variants=variants)


def merge_of(run, name):
    found = findings_of(run, variant_named(run, name))
    return next((finding for finding in found if finding.check == "merge"), None)


def without(run, *names):
    return replace(run, variants=tuple(v for v in run.variants if v.name not in names))


def test_a_merge_that_undid_the_adapter_is_found_from_the_scores(made_up):
    run = made_up.run()
    # ln(18.57/18.86) / ln(11.14/18.86) = 0.029
    assert not merge_of(run, "merged-4bit").ok
    assert (
        "merged-4bit keeps 3 % of what the adapter changed" in merge_of(run, "merged-4bit").message
    )
    assert not merge_of(run, "requantized").ok
    assert merge_of(run, "fp16-merged-nf4").ok
    assert merge_of(run, "nf4+adapter") is None


def test_a_merge_into_dequantised_weights_is_measured_against_the_quantised_ones(made_up):
    run = made_up.run()
    kept = merge_of(run, "dequant-merged")
    assert kept.ok
    # ln(11.16/18.86) / ln(11.14/18.86) = 0.997: the values that were dequantised are nf4's
    assert "dequant-merged keeps 100 % of what the adapter changed" in kept.message
    lost = tuple(
        replace(v, scores={"perplexity": made_up.score(18.8)}) if v.name == "dequant-merged" else v
        for v in run.variants
    )
    found = merge_of(made_up.run(variants=lost), "dequant-merged")
    assert not found.ok
    # ln(18.8/18.86) / ln(11.14/18.86) = 0.006
    assert "dequant-merged keeps 1 %" in found.message


def test_dequantised_weights_that_were_scored_come_first(made_up):
    path = ({"load": "fp16"}, {"quantize": "nf4"}, {"dequantize": "fp16"})
    scored = made_up.variant("dequantised", 22.28, path=path)
    run = made_up.run(variants=(*made_up.run().variants, scored))
    # ln(11.16/22.28) / ln(11.14/18.86) = 1.31
    assert "keeps 131 %" in merge_of(run, "dequant-merged").message


def test_without_a_score_of_the_adapter_alone_nothing_is_said(made_up):
    assert merge_notes(without(made_up.run(), "nf4+adapter")) == []
    assert merge_notes(without(made_up.run(), "nf4")) == []


def test_another_adapter_does_not_tell(made_up):
    other = ({"load": "fp16"}, {"quantize": "nf4"}, {"attach": "other"})
    variants = tuple(
        replace(v, path=other) if v.name == "nf4+adapter" else v for v in made_up.run().variants
    )
    assert merge_notes(made_up.run(variants=variants)) == []


def test_scores_on_other_documents_do_not_tell(made_up):
    other = made_up.score(11.14, comparison={"data": "other"})
    variants = tuple(
        replace(v, scores={"perplexity": other}) if v.name == "nf4+adapter" else v
        for v in made_up.run().variants
    )
    assert merge_notes(made_up.run(variants=variants)) == []


def test_the_adapter_is_measured_against_what_it_was_put_on(made_up):
    """Compared with an adapter on fp16, which NF4's own cost must not be mixed up with."""
    attached = made_up.variant(
        "fp16+adapter", 14.0, path=({"load": "fp16"}, {"attach": "reference-style"})
    )
    values = {"fp16-merged-nf4": 18.2, "nf4+adapter": 11.14}
    variants = tuple(
        replace(v, scores={"perplexity": made_up.score(values[v.name])}) if v.name in values else v
        for v in made_up.run().variants
    )
    gate = made_up.gate("fp16-merged-nf4", "fp16+adapter", 0.5)
    verdict = made_up.verdict(gate, "PASS", (0.2, 0.3, 0.4))
    run = made_up.run(variants=(*variants, attached), verdicts=(verdict,))
    # ln(18.2/18.86) / ln(14/14.59) = 0.86; against nf4 it would be ln(18.2/18.86) / ln(14/18.86).
    assert "keeps 86 %" in merge_of(run, "fp16-merged-nf4").message


def test_the_note_says_it_once_and_that_it_was_expected(made_up):
    run = made_up.run()
    (note,) = merge_notes(run)
    assert note == (
        "Of what the adapter changed in perplexity, merged-4bit keeps 2.9 % (as its gate expects) "
        "and requantized keeps 2.6 %: the merges undid it."
    )
    assert notes_of(run).count(note) == 1
    (alone,) = merge_notes(without(run, "requantized"))
    assert alone.endswith("merged-4bit keeps 2.9 %: the merge undid it, as its gate expects.")


def test_survival_stands_in_the_finding_where_it_was_measured(made_up):
    module = ModuleSurvival("q_proj", 0.01, 1.0, 1.0, 100.0)
    survival = made_up.score(0.01, metric="survival", modules=(module,))
    variants = tuple(
        replace(v, scores={**v.scores, "survival": survival}) if v.name == "merged-4bit" else v
        for v in made_up.run().variants
    )
    message = merge_of(made_up.run(variants=variants), "merged-4bit").message
    assert "1.0 % of the adapter is in the weights" in message


def test_the_table_has_a_column_a_check(made_up):
    table = check_table(checked(made_up.run(), "nf4", STORED))
    assert table.checks == ("finite", "reload", "merge")
    nf4 = next(row for row in table.rows if row.name == "nf4")
    assert [[f.ok for f in cell] for cell in nf4.cells] == [[True], [False], []]
    assert table.failed == 3
    assert "fp16" not in {row.name for row in table.rows}, "nothing was checked"


@pytest.mark.parametrize("checks", [None, "text", {"check": 1}, [1, {"ok": True}, {"check": "x"}]])
def test_what_is_no_list_of_checks_is_no_check(made_up, checks):
    run = checked(made_up.run(), "nf4", checks)
    assert findings_of(run, variant_named(run, "nf4")) == []


def test_a_run_without_checks_has_no_table(made_up):
    assert check_table(without(made_up.run(), "nf4+adapter")) is None


def test_a_message_that_is_everywhere_the_same_stands_once(made_up):
    run = checked(checked(made_up.run(), "nf4", STORED), "fp16", STORED[:1])
    assert check_table(run).shared == ("every number is finite", "", "")
    html = render_html(run)
    section = html[html.index('id="checks"') :]
    section = section[: section.index("</section>")]
    assert section.count("every number is finite") == 1
    assert html.count("every number is finite") == 1, "nor among what the job recorded"
    assert ">not ok<" in html
    assert "<strong>3 not ok.</strong>" in html


def test_a_page_without_checks_has_no_section(made_up):
    assert 'id="checks"' not in render_html(without(made_up.run(), "nf4+adapter"))


def test_the_json_lists_what_was_found(made_up):
    answer = run_json(checked(made_up.run(), "merged-4bit", STORED))["variants"]
    assert answer["merged-4bit"]["checks"][:2] == STORED
    assert answer["merged-4bit"]["checks"][2]["check"] == "merge"
    assert answer["merged-4bit"]["checks"][2]["ok"] is False
    assert answer["fp16"]["checks"] == []
