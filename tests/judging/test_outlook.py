"""What gates could see, from scores that are there: the smallest change, and what would pass."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from evalkit.judging.gates import Evidence
from evalkit.judging.outlook import Basis, Outlook, outlooks
from evalkit.records import BASELINE, Budget, Gate, Repeat, Score
from evalkit.report.outlook_text import OutlookRow, outlook_row


def perplexity(shift: float = 0.0, noise: float = 0.0, units: int = 60, seed: int = 1) -> Score:
    generator = np.random.default_rng(0)
    counts = generator.integers(80, 120, units).astype(np.float64)
    sums = counts * (generator.normal(2.5, 0.4, units) + shift)
    sums = sums + counts * noise * np.random.default_rng(seed).normal(size=units)
    ids = tuple(f"doc{i}" for i in range(units))
    value = math.exp(sums.sum() / counts.sum())
    common: Any = {"unit": "ppl/token", "higher_is_better": False}
    return Score(
        "perplexity", "perplexity", value, None, unit_ids=ids, clusters=ids, sums=sums,
        counts=counts, **common,
    )  # fmt: skip


def basis(score: Score, words: str = "run 1", growth: float = 1.0, **evidence: Any) -> Basis:
    scores = {"nf4": {"perplexity": score}, "fp16": {"perplexity": perplexity(units=units(score))}}
    return Basis(Evidence(scores, **evidence), words, {"perplexity": growth})


def units(score: Score) -> int:
    return len(score.unit_ids)


def gate(amount: float, **changes: Any) -> Gate:
    made = Gate("perplexity", "nf4", "fp16", max_increase=Budget(amount, "relative"))
    return replace(made, **changes)


def look(the_gate: Gate, *bases: Basis) -> Outlook:
    (found,) = outlooks([the_gate], bases)
    return found


def row(the_gate: Gate, *bases: Basis) -> OutlookRow:
    return outlook_row(look(the_gate, *bases))


SCATTERED = perplexity(shift=0.03, noise=0.05)
"""A standard error of about 0.05/√60, so 0.65 %; 80 % power at 2.5 % takes 2.85 of them: 1.9 %."""


def test_what_a_gate_sees_lies_past_its_budget() -> None:
    found = row(gate(0.05), basis(SCATTERED))
    assert found.gate == "nf4: perplexity at most 5 % above fp16"
    assert found.sees.startswith("a rise of ")
    assert found.sees.endswith(" % or more")
    seen = float(found.sees.split()[3])
    assert 6.3 < seen < 8.5
    assert found.basis == "run 1"


def test_a_wide_budget_passes_an_unchanged_model_and_a_narrow_one_says_what_it_takes() -> None:
    assert row(gate(0.05), basis(SCATTERED)).unchanged.startswith("yes (down to ")
    found = look(gate(0.01), basis(SCATTERED))
    words = outlook_row(found).unchanged
    assert words.startswith("no: needs a budget of ")
    assert words.endswith(" documents")
    assert found.units_needed is not None
    grown = look(gate(0.01), basis(SCATTERED, growth=1.3 * found.units_needed / 60))
    assert grown.visible is not None
    assert grown.visible.passes_unchanged


def test_an_improvement_that_is_asked_for_and_a_loss_that_is_expected() -> None:
    assert row(gate(0.0), basis(SCATTERED)).unchanged == "no: an improvement is asked for"
    assert row(gate(-0.05), basis(SCATTERED)).sees.startswith("a fall of ")
    known = gate(0.01, expect="regressed")
    assert row(known, basis(SCATTERED)).unchanged == "expected to regress"


def test_an_absolute_limit_is_told_as_a_value() -> None:
    limit = gate(0, max_increase=None, against=None, maximum=40.0)
    found = row(limit, basis(SCATTERED))
    assert found.sees.endswith(" or more")
    assert float(found.sees.split()[0]) > 40
    assert found.unchanged.startswith("yes")


def test_few_documents_pass_nothing() -> None:
    found = row(gate(0.05), basis(perplexity(noise=0.05, units=8)))
    assert found.unchanged.startswith("no: documents worth 7")
    grown = row(gate(0.05), basis(perplexity(noise=0.05, units=8), growth=10.0))
    assert grown.unchanged.startswith("yes")


def test_the_first_basis_that_has_the_scores_counts() -> None:
    empty = Basis(Evidence({}), "run 2", {})
    assert row(gate(0.05), empty, basis(SCATTERED)).basis == "run 1"
    unknown = row(gate(0.05), empty)
    assert (unknown.sees, unknown.unchanged, unknown.basis) == ("?", "not known yet", "")


def test_scores_that_cannot_be_told_from_each_other_tell_nothing() -> None:
    found = row(gate(0.05), basis(perplexity()))
    assert "identical" in found.unchanged


def test_a_missing_baseline_is_named() -> None:
    assert row(gate(0.05, against=BASELINE), basis(SCATTERED)).unchanged == (
        "no baseline is promoted yet"
    )


def test_a_pilot_grows_into_what_the_whole_corpus_would_have_told() -> None:
    whole = look(gate(0.05), basis(perplexity(noise=0.05, units=400)))
    part = look(gate(0.05), basis(perplexity(noise=0.05, units=40), growth=10.0))
    assert whole.visible is not None
    assert part.visible is not None
    assert part.visible.least_budget == pytest.approx(whole.visible.least_budget, rel=0.25)


def test_more_documents_are_not_promised_where_training_scatters() -> None:
    repeats = {
        "nf4": tuple(
            Repeat("seed", f"seed {n}", {"perplexity": perplexity(0.03 * n, 0.05)}) for n in (1, 2)
        )
    }
    found = look(gate(0.01), basis(SCATTERED, repeats=repeats, averaged={"nf4"}))
    assert found.units_needed is None
    assert "documents" not in outlook_row(found).unchanged
