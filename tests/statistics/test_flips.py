from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from evalkit.records import SampleOutcome, Score
from evalkit.statistics.flips import Flips, flips, is_hit_or_miss, is_of_shares, is_same_answer


def score(values: list[float], *, higher_is_better: bool = True, **changes: object) -> Score:
    ids = tuple(f"q{i}" for i in range(len(values)))
    ones = np.ones(len(values))
    found = Score(
        "t/acc", "mean", 0.5, None, "", higher_is_better, ids, ids, np.array(values), ones
    )
    return replace(found, **changes)  # type: ignore[arg-type]


def outcome(*log_likelihoods: float) -> SampleOutcome:
    return SampleOutcome("0", "0", True, log_likelihoods)


def test_what_was_gained_and_lost():
    a, b = score([1, 1, 0, 0, 0, 1]), score([1, 0, 1, 1, 1, 1])
    assert flips(a, b) == Flips(1, 3, pytest.approx(0.625))
    assert flips(b, a) == Flips(3, 1, pytest.approx(0.625))
    assert flips(a, a) == Flips(0, 0, 1.0)


def test_where_less_is_better_a_fall_is_a_gain():
    a, b = ([1.0, 1, 0], [1.0, 0, 0])
    found = flips(score(a, higher_is_better=False), score(b, higher_is_better=False))
    assert (found.gained, found.lost) == (0, 1)


@pytest.mark.parametrize(
    ("other", "shares"),
    [
        (score([0.5, 1]), True),
        (score([2.0, 1]), False),
        (score([1.0, 1], counts=np.array([1.0, 2.0])), False),
        (score([1.0, 1], kind="perplexity"), False),
        (Score("m", "mean", 1.0, None, "", True, (), (), np.zeros(0), np.zeros(0)), False),
    ],
)
def test_other_scores_have_no_flips(other, shares):
    assert not is_hit_or_miss(other)
    assert is_of_shares(other) == shares
    assert flips(other, other) is None


def test_the_same_answer_is_the_same_log_likelihoods():
    a = score([1, 1], outcomes=(outcome(-1.0, -2.0), outcome(-3.0, -4.0)))
    other = score([1, 1], outcomes=(outcome(-1.0, -2.0), outcome(-3.0, -4.1)))
    generated = score([1, 1], outcomes=(outcome(), outcome()))
    assert is_same_answer(a, replace(a))
    assert not is_same_answer(a, other)
    assert not is_same_answer(generated, generated)
    assert not is_same_answer(score([1, 1]), score([1, 1]))
