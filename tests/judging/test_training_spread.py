"""Gates over several training seeds: the mean of paired effects, with the spread between them."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from evalkit.judging.gates import Evidence, judge
from evalkit.judging.training_spread import averaged_variants, seed_draws
from evalkit.records import (
    BASELINE,
    Baseline,
    Budget,
    Gate,
    Repeat,
    RunRecord,
    Score,
    VariantRecord,
    Verdict,
)

UNITS = 80
GATE = Gate("perplexity", "tuned", "base", max_increase=Budget(0.02, "relative"))


def perplexity(shift: float = 0.0, noise: float = 0.02, seed: int = 1) -> Score:
    generator = np.random.default_rng(0)
    counts = generator.integers(80, 120, UNITS).astype(np.float64)
    sums = counts * (generator.normal(2.5, 0.4, UNITS) + shift)
    sums = sums + counts * noise * np.random.default_rng(seed).normal(size=UNITS)
    ids = tuple(f"doc{i}" for i in range(UNITS))
    value = math.exp(sums.sum() / counts.sum())
    common: Any = {"unit": "ppl/token", "higher_is_better": False}
    return Score(
        "perplexity", "perplexity", value, None, unit_ids=ids, clusters=ids, sums=sums,
        counts=counts, **common,
    )  # fmt: skip


BASE = perplexity(noise=0.0)
DRAWS = [perplexity(shift, seed=index) for index, shift in enumerate((0.010, 0.030, -0.005), 10)]


def seeds(*scores: Score) -> tuple[Repeat, ...]:
    return tuple(
        Repeat("seed", f"seed {number}", {"perplexity": score})
        for number, score in enumerate(scores, 1)
    )


def effect(score: Score, reference: Score) -> float:
    return float((score.sums - reference.sums).sum() / score.counts.sum())


def verdict(gate: Gate = GATE, **evidence: Any) -> Verdict:
    given: dict[str, Any] = {
        "scores": {"tuned": {"perplexity": DRAWS[0]}, "base": {"perplexity": BASE}},
        "repeats": {"tuned": seeds(*DRAWS[1:])},
        "trained": {"tuned"},
        "averaged": {"tuned"},
    }
    (result,) = judge([gate], Evidence(**{**given, **evidence}))
    return result


def test_the_effect_is_the_mean_over_the_seeds_of_the_suite() -> None:
    found = verdict()
    effects = [effect(score, BASE) for score in DRAWS]
    assert found.effect == pytest.approx(math.expm1(statistics.mean(effects)))
    assert found.n_seeds == 3
    shown = [math.expm1(value) for value in effects]
    assert found.training_spread == pytest.approx(statistics.stdev(shown))
    assert "over 3 training seeds (spread 1.83 %)" in found.message
    assert "not training" not in found.message
    assert "the interval holds the budget: more training seeds would settle it" in found.message


def test_the_variance_between_seeds_is_part_of_the_interval() -> None:
    together = verdict()
    alone = verdict(repeats={})
    assert alone.n_seeds is None
    assert "the interval covers documents, not training" in alone.message
    width = [v.high - v.low for v in (together, alone)]  # type: ignore[operator]
    spread = statistics.stdev(effect(score, BASE) for score in DRAWS)
    # At least the half width of Student's t with two degrees of freedom on s/√3 alone.
    assert width[0] / 2 > 0.5 * 4.3 * spread / math.sqrt(3)
    assert width[0] > 3 * width[1]


def test_a_seed_that_ships_alone_keeps_its_effect_and_takes_the_whole_spread() -> None:
    single = verdict(averaged=())
    assert single.effect == pytest.approx(math.expm1(effect(DRAWS[0], BASE)))
    assert single.n_seeds == 3
    width = [v.high - v.low for v in (single, verdict())]  # type: ignore[operator]
    assert width[0] > 1.4 * width[1]


def test_seeds_are_paired_where_both_sides_were_trained() -> None:
    """What a seed moves on both sides alike moves no difference."""
    merged = [replace(score, sums=score.sums + 0.01 * score.counts) for score in DRAWS]
    gate = Gate("perplexity", "merged", "tuned", max_increase=Budget(0.02, "relative"))
    scores = {"tuned": {"perplexity": DRAWS[0]}, "merged": {"perplexity": merged[0]}}
    shuffled = (seeds(*merged[1:])[1], seeds(*merged[1:])[0])
    repeats = {"tuned": seeds(*DRAWS[1:]), "merged": shuffled}
    found = verdict(gate, scores=scores, repeats=repeats, averaged={"tuned", "merged"})
    assert found.effect == pytest.approx(math.expm1(0.01))
    assert found.training_spread == pytest.approx(0, abs=1e-12)
    assert found.verdict == "PASS"


def test_a_side_without_draws_stays_what_it_is() -> None:
    reference = {"base": seeds(*DRAWS[1:])}
    ships = (BASE, DRAWS[0])
    turned = Gate("perplexity", "tuned", "base", max_increase=Budget(0.02, "relative"))
    draws = seed_draws(turned, ships, reference)
    assert [b for _, b in draws] == DRAWS
    assert all(a is BASE for a, _ in draws)
    assert seed_draws(GATE, ships, {}) == (ships,)
    aa = Repeat("aa", "batches", {"perplexity": BASE})
    assert seed_draws(GATE, ships, {"tuned": (aa,)}) == (ships,)


def test_unlike_adapters_are_paired_in_their_order() -> None:
    gate = Gate("perplexity", "one", "other", max_increase=Budget(0.02, "relative"))
    renamed = tuple(
        replace(repeat, label=f"seed {9 + index}") for index, repeat in enumerate(seeds(*DRAWS[1:]))
    )
    draws = seed_draws(gate, (BASE, BASE), {"one": seeds(*DRAWS[1:]), "other": renamed})
    assert draws == ((BASE, BASE), (DRAWS[1], DRAWS[1]), (DRAWS[2], DRAWS[2]))


def test_the_side_that_was_trained_once_is_named() -> None:
    gate = Gate("perplexity", "tuned", "base", max_increase=Budget(0.02, "relative"))
    told = verdict(gate, trained={"tuned", "base"}).message
    assert told.endswith("over 3 training seeds (spread 1.83 %), not over those of base")


def test_an_absolute_limit_is_judged_over_seeds_too() -> None:
    gate = Gate("perplexity", "tuned", maximum=100.0)
    found = verdict(gate)
    mean = statistics.mean(math.log(score.value) for score in DRAWS)
    assert found.effect == pytest.approx(math.exp(mean))
    assert found.training_spread == pytest.approx(statistics.stdev(score.value for score in DRAWS))


def test_what_is_bit_identical_to_the_baseline_needs_no_statistics() -> None:
    gate = replace(GATE, against=BASELINE)
    baseline = Baseline(
        "main", "s", "r", "", False, (), {}, {"tuned": {"perplexity": DRAWS[0]}}
    )  # fmt: skip
    found = verdict(gate, baseline=baseline)
    assert (found.verdict, found.effect, found.n_seeds) == ("PASS", 0.0, None)
    moved = verdict(gate, baseline=replace(baseline, scores={"tuned": {"perplexity": BASE}}))
    # What ships is compared with what shipped, not a mean over seeds.
    assert moved.effect == pytest.approx(math.expm1(effect(DRAWS[0], BASE)))
    assert moved.n_seeds == 3


def test_draws_that_do_not_differ_leave_the_comparison_as_it_is() -> None:
    same = verdict(repeats={"tuned": seeds(DRAWS[0], DRAWS[0])})
    alone = verdict(repeats={})
    assert (same.effect, same.low, same.high) == (
        pytest.approx(alone.effect), pytest.approx(alone.low), pytest.approx(alone.high),
    )  # fmt: skip
    assert same.training_spread == 0.0


def test_which_variants_are_averaged_is_read_from_the_suite() -> None:
    def run(training: dict[str, Any] | None) -> RunRecord:
        paths = {"base": ({"load": "fp16"},), "tuned": ({"load": "fp16"}, {"attach": "a"})}
        variants = tuple(
            VariantRecord(name, path, None, "", None, {}) for name, path in paths.items()
        )
        suite = {"adapters": {"a": {"training": training} if training else {"from": "./x"}}}
        return RunRecord("r", "s", "", None, None, "", suite, {}, {}, variants, (), ())

    assert averaged_variants(run({"seeds": [0, 1]})) == {"tuned"}
    assert averaged_variants(run({"seeds": [0], "seed": 0})) == set()
    assert averaged_variants(run({"seed": 0})) == set()
    assert averaged_variants(run(None)) == set()
