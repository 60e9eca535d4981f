from __future__ import annotations

import math
from dataclasses import replace

import pytest

from evalkit.judging.budgets import BudgetTest
from evalkit.judging.verdict_text import not_judged_sentence, verdict_sentence
from evalkit.records import Budget, Gate
from evalkit.statistics.clusters import Comparison
from evalkit.statistics.flips import Flips

RELATIVE = Gate("perplexity", "nf4", "fp16", max_increase=Budget(0.01, "relative"))
EXPECTED = Gate(
    "perplexity", "nf4", "fp16", max_increase=Budget(0.01, "relative"), expect="regressed"
)


def relative_test(
    effect: float, stderr: float, *, gate: Gate = RELATIVE, even: float = 40.0
) -> BudgetTest:
    low, high = effect - 2.02 * stderr, effect + 2.02 * stderr
    seen = Comparison(effect, stderr, 39, low, high, 40, 40, even)
    return BudgetTest(gate, seen, 1, math.log(1.01), math.expm1)


START = "perplexity of nf4 is"


@pytest.mark.parametrize(
    ("test", "verdict", "p_adjusted", "sentence"),
    [
        (
            relative_test(0.0, 0.002),
            "PASS",
            1.0,
            f"{START} +0 % against fp16 (95 % CI -0.403 % to +0.405 %), at most +1 % allowed",
        ),
        (
            relative_test(0.5, 0.02),
            "REGRESSED",
            1e-9,
            f"{START} +64.9 % against fp16 (95 % CI +58.3 % to +71.7 %), at most +1 % allowed; "
            "past it (Holm-adjusted p < 0.0001)",
        ),
        (
            relative_test(0.5, 0.02, gate=EXPECTED),
            "REGRESSED",
            None,
            f"{START} +64.9 % against fp16 (95 % CI +58.3 % to +71.7 %), at most +1 % allowed; "
            "past it, as expected (p < 0.0001)",
        ),
        (
            relative_test(0.0, 0.002, gate=EXPECTED),
            "PASS",
            None,
            f"{START} +0 % against fp16 (95 % CI -0.403 % to +0.405 %), at most +1 % allowed; "
            "the loss is gone: remove `expect: regressed`",
        ),
        (
            relative_test(0.0, 0.01),
            "INCONCLUSIVE",
            0.8,
            f"{START} +0 % against fp16 (95 % CI -2 % to +2.04 %), at most +1 % allowed; "
            "the interval holds the budget: about 320 clusters like these 40 would settle it, "
            "if the effect stays as seen, for 80 % power",
        ),
        (
            relative_test(0.0, 0.002, even=10.0),
            "INCONCLUSIVE",
            0.8,
            f"{START} +0 % against fp16 (95 % CI -0.403 % to +0.405 %), at most +1 % allowed; "
            "few clusters (40, worth 10.0 even ones): no pass on the interval alone; "
            "about 80 like these are needed",
        ),
    ],
)
def test_sentences(test, verdict, p_adjusted, sentence):
    assert verdict_sentence(test, verdict, p_adjusted, trained=()) == sentence


def test_no_exponents_among_the_numbers_that_people_meet():
    seen = Comparison(17e9, 0.0, 0, 17e9, 17e9, 0, 0, 0.0)
    gate = Gate("perplexity", "broken", maximum=12345.0)
    sentence = verdict_sentence(
        BudgetTest(gate, seen, 1, 12345.0, float), "REGRESSED", None, trained=()
    )
    assert sentence == "perplexity of broken is 17000000000, at most 12345 allowed; past it"


def test_why_it_was_not_judged():
    assert (
        not_judged_sentence(RELATIVE, ["fp16 failed: out of memory"])
        == "perplexity of nf4 against fp16: fp16 failed: out of memory"
    )


@pytest.mark.parametrize(
    ("effect", "verdict", "ends"),
    [(0.0, "PASS", (-0.004, 0.012)), (0.05, "REGRESSED", (0.009, 0.06))],
)
def test_a_bootstrap_that_disagrees_is_mentioned(effect, verdict, ends):
    test = relative_test(effect, 0.002)
    doubted = replace(
        test, comparison=replace(test.comparison, bootstrap_low=ends[0], bootstrap_high=ends[1])
    )
    said = "the cluster bootstrap does not agree"
    assert said in verdict_sentence(doubted, verdict, None, trained=())
    assert said not in verdict_sentence(test, verdict, None, trained=())


def test_flips_are_told():
    test = relative_test(0.0, 0.002)
    told = replace(test, flips=Flips(2, 1005, 1e-9))
    assert "; 2 gained, 1,005 lost, McNemar p < 0.0001" in verdict_sentence(
        told, "PASS", None, trained=()
    )
    none = replace(test, flips=Flips(0, 0, 1.0))
    assert "; no sample flipped" in verdict_sentence(none, "PASS", None, trained=())
