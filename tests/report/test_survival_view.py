"""What merges kept, by layer and kind of module."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evalkit.records.integrity import ModuleSurvival
from evalkit.report.html import render_html
from evalkit.report.json.run import run_json
from evalkit.report.markdown.summary import markdown
from evalkit.report.survival_view import MOST_LAYERS, kinds_table, survival_cards


def module(name, kept, *, wanted=1.0):
    return ModuleSurvival(name, kept * wanted, wanted, 1.0, 100.0, 1000, 3)


def run_with(made_up, *modules, name="merged-4bit", **changes):
    score = made_up.survival(0.5, layers=1)
    score = replace(score, modules=modules, **changes)
    variants = tuple(
        replace(v, scores={**v.scores, "survival": score}) if v.name == name else v
        for v in made_up.run().variants
    )
    return made_up.run(variants=variants)


def test_each_module_has_its_cell(made_up):
    run = run_with(
        made_up,
        module("model.layers.0.q_proj", 0.95),
        module("model.layers.0.up_proj", 0.004),
        module("model.layers.1.q_proj", 0.45, wanted=4.0),
        module("lm_head", -0.2),
    )
    (card,) = survival_cards(run)
    assert card.kinds == ("q_proj", "up_proj", "lm_head")
    assert [row.layer for row in card.rows] == ["0", "1", "lm_head"]
    first, second, head = card.rows
    assert [(cell.words, cell.level) for cell in first.cells] == [
        ("95", "all"), ("0.4", "none"), ("", ""),
    ]  # fmt: skip
    assert (second.cells[0].words, second.cells[0].level) == ("45", "little")
    assert head.cells[2].words == "−20"
    # (0.95 + 0.45 * 4) / 5: a module counts by the size of its change.
    assert card.pooled.cells[0].words == "55"
    assert "q_proj: 95.0 %" in first.cells[0].title


def test_two_modules_of_one_kind_in_a_layer_are_pooled(made_up):
    run = run_with(made_up, module("enc.block.0.q", 1.0), module("dec.block.0.q", 0.5))
    (card,) = survival_cards(run)
    assert [cell.words for cell in card.rows[0].cells] == ["75"]


def test_a_module_that_was_not_to_change_has_no_survival(made_up):
    (card,) = survival_cards(run_with(made_up, module("layers.0.q_proj", 0.0, wanted=0.0)))
    assert card.rows[0].cells[0].words == "–"


def test_a_score_without_modules_keeps_its_total(made_up):
    """As an older store has it."""
    run = run_with(made_up, value=0.007, extra={})
    (card,) = survival_cards(run)
    assert (card.total, card.pooled, card.rows) == ("0.70 %", None, ())
    assert "keeps 0.70\N{NO-BREAK SPACE}%" in render_html(run)
    detail = run_json(run)["variants"]["merged-4bit"]["survival_detail"]
    assert detail["total"] == 0.007
    assert (detail["by_layer"], detail["mean"]) == ({}, None)


def test_no_file_makes_a_page_without_end(made_up):
    modules = [module(f"layers.{index}.kind{index}", 0.5) for index in range(500)]
    (card,) = survival_cards(run_with(made_up, *modules))
    assert len(card.rows) == MOST_LAYERS
    assert card.left_out == "340 more layers and 476 more kinds: see the JSON"


def test_the_page_shows_every_layer(made_up):
    html = render_html(made_up.detailed())
    assert "What merges kept of their adapters" in html
    assert html.count('<table class="heat">') == 4
    assert 'title="29 down_proj: ' in html
    assert "relative error" in html
    assert "What merges kept" not in render_html(made_up.run())


def test_markdown_tells_kinds(made_up):
    columns, rows = kinds_table(made_up.detailed())
    assert columns[:3] == ["variant", "total", "mean over modules"]
    assert columns[-1] == "down_proj"
    assert [row[0] for row in rows] == ["merged-4bit", "dequant-merged", "requantized",
                                        "fp16-merged-nf4"]  # fmt: skip
    text = markdown(made_up.detailed())
    assert "<details><summary>What merges kept of their adapters" in text
    assert "gate\\_proj" in text
    assert kinds_table(made_up.run()) is None


def test_the_json_has_both_groupings(made_up):
    answer = run_json(made_up.detailed())["variants"]
    detail = answer["dequant-merged"]["survival_detail"]
    assert detail["total"] == answer["dequant-merged"]["survival"]
    assert set(detail["by_layer"]) == {str(layer) for layer in range(30)}
    assert set(detail["by_kind"]) == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj",
                                      "up_proj", "down_proj"}  # fmt: skip
    assert detail["by_kind"]["q_proj"] == pytest.approx(0.889, abs=0.001)
    assert detail["relative_size"] == 0.02
    assert answer["nf4"]["survival_detail"] is None
