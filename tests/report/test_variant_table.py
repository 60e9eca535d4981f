"""Variants by metrics: every value, and every difference that a reader may ask for."""

from __future__ import annotations

from dataclasses import replace

from evalkit.report.variant_table import variant_table


def column(table, title):
    return next(column for column in table.columns if column.title == title)


def test_every_difference_is_there_before_it_is_asked_for(made_up):
    table = variant_table(made_up.run())
    names = [row.name for row in table.rows]
    perplexity = column(table, "perplexity")
    assert names[table.reference] == "fp16"
    # 18.57 / 11.14 - 1, and 11.14 / 18.57 - 1
    merged, loaded = names.index("merged-4bit"), names.index("nf4+adapter")
    assert perplexity.changes[loaded][merged] == "+66.7 %"
    assert perplexity.changes[merged][loaded] == "−40.0 %"
    assert all(perplexity.changes[at][at] == "0.00 %" for at in range(len(names)))


def test_quality_and_costs_stand_side_by_side(made_up):
    table = variant_table(made_up.costly_run())
    assert [column.title for column in table.columns] == [
        "perplexity", "bits/byte", "KL", "on disk", "peak memory", "scoring",
    ]  # fmt: skip
    disk = column(table, "on disk")
    assert disk.cells[0].value == "269 MB"
    assert disk.cells[0].order == 269_030_016
    # 92,217,344 / 269,030,016 - 1
    assert disk.changes[0][1] == "−65.7 %"
    assert not disk.higher_is_better
    assert column(table, "scoring").higher_is_better
    assert [c.title for c in table.columns if c.is_timed] == ["peak memory", "scoring"]
    assert column(table, "KL").cells[0].value == "reference"
    assert "MB" not in table.rows[0].stored, "bytes have a column of their own"


def test_only_the_best_and_the_worst_are_marked(made_up):
    cells = column(variant_table(made_up.run()), "perplexity").cells
    assert [cell.mark for cell in cells] == ["", "worst", "best", "", "", "", ""]


def test_marks_that_would_be_on_everything_are_left_out(made_up):
    same = {"perplexity": made_up.score(9.0)}
    variants = tuple(
        replace(v, scores=same)
        if index % 2
        else replace(v, scores={"perplexity": made_up.score(8)})
        for index, v in enumerate(made_up.run().variants)
    )
    cells = column(variant_table(made_up.run(variants=variants)), "perplexity").cells
    assert not any(cell.mark for cell in cells)


def test_what_cannot_be_compared_says_so_and_what_is_missing_is_empty(made_up):
    other = {"perplexity": made_up.score(5.0, comparison={"data": "other"})}
    changed = {"nf4": other, "requantized": {}}
    variants = tuple(
        replace(v, scores=changed.get(v.name, v.scores)) for v in made_up.run().variants
    )
    table = variant_table(made_up.run(variants=variants))
    names = [row.name for row in table.rows]
    perplexity = column(table, "perplexity")
    assert perplexity.changes[0][names.index("nf4")] == "not comparable"
    assert perplexity.changes[0][names.index("requantized")] == ""
    assert perplexity.cells[names.index("requantized")].order is None
    assert table.rows[names.index("requantized")].problem == "not scored"


def test_without_a_score_there_is_no_table(made_up):
    variants = tuple(replace(v, scores={}) for v in made_up.run().variants)
    assert variant_table(made_up.run(variants=variants)) is None
