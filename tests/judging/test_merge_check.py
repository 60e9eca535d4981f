"""A merge that lost its adapter is found from scores alone, and nothing else is."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from evalkit.judging.merge_check import check_merge, kept_share
from evalkit.records import Score
from evalkit.records.integrity import ModuleSurvival, Survival


def perplexity(*nats: float) -> Score:
    units = tuple(f"d{index}" for index in range(len(nats)))
    sums, counts = np.array(nats) * 100, np.full(len(nats), 100.0)
    value = math.exp(sums.sum() / counts.sum())
    return Score("perplexity", "perplexity", value, None, "ppl", False, units, units, sums, counts)


BASE = perplexity(2.6, 2.7, 2.5, 2.8)
ATTACHED = perplexity(2.2, 2.3, 2.1, 2.3)


def test_a_merge_that_changed_nothing_is_found():
    lost = Survival((ModuleSurvival("q_proj", 0.01, 1.0, 1.0, 100.0),))
    nothing = check_merge("merged", None, base=BASE, attached=ATTACHED, merged=BASE)
    assert not nothing.ok
    assert not nothing.fails, "it is what a variant may be there to show"
    assert "exactly as without the adapter" in nothing.message
    little = perplexity(2.59, 2.68, 2.49, 2.79)
    finding = check_merge("merged", lost, base=BASE, attached=ATTACHED, merged=little)
    assert not finding.ok
    assert "keeps 3 % of what the adapter changed" in finding.message
    assert "1.0 % of the adapter is in the weights" in finding.message


def test_a_merge_that_kept_it_is_not():
    kept = perplexity(2.25, 2.34, 2.1, 2.35)
    assert check_merge("merged", None, base=BASE, attached=ATTACHED, merged=kept).ok


def test_an_adapter_that_is_not_seen_in_the_score_tells_nothing():
    same = perplexity(2.5999, 2.7001, 2.5, 2.8)
    assert check_merge("merged", None, base=BASE, attached=same, merged=BASE) is None
    unsure = perplexity(2.0, 3.3, 2.1, 3.15)
    assert check_merge("merged", None, base=BASE, attached=unsure, merged=BASE) is None
    scored = replace(BASE, value=BASE.value)
    assert check_merge("merged", None, base=BASE, attached=scored, merged=BASE) is None


def test_the_adapter_is_measured_where_it_was_put_on():
    """What quantising costs must not pass for what the adapter does."""
    fine, fine_attached = perplexity(2.1, 2.2, 2.0, 2.3), perplexity(1.9, 2.0, 1.8, 2.1)
    merged = perplexity(2.45, 2.55, 2.35, 2.65)
    shares = {"base": BASE, "attached": fine_attached, "merged": merged}
    assert kept_share(**shares, attached_base=fine) == pytest.approx(0.75)
    assert kept_share(**shares) == pytest.approx(0.15 / 0.7)
