from __future__ import annotations

import itertools
import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from scipy import stats

from evalkit.judging.gates import Evidence, exit_code, judge
from evalkit.records import Budget, Gate, SampleOutcome, Score, Verdict
from evalkit.statistics.clusters import paired_ratio
from evalkit.statistics.comparisons import skewness_margin

UNITS = 60


def one_percent() -> Budget:
    return Budget(0.01, "relative")


def perplexity(
    shift: float = 0.0,
    *,
    noise: float = 0.0,
    units: int = UNITS,
    seed: int = 0,
    **changes: object,
) -> Score:
    """A perplexity score: the same documents each time, moved by `shift` nats per token.

    `noise` spreads the shift over documents, with an average of zero.
    """
    generator = np.random.default_rng(7)
    counts = generator.integers(80, 120, units).astype(np.float64)
    base = counts * generator.normal(2.5, 0.4, units)
    spread = np.random.default_rng(seed).normal(0.0, 1.0, units) if noise else np.zeros(units)
    spread -= (spread * counts).sum() / counts.sum()
    sums = base + counts * (shift + noise * spread)
    ids = tuple(f"doc{i}" for i in range(units))
    score = Score(
        metric="perplexity",
        kind="perplexity",
        value=math.exp(sums.sum() / counts.sum()),
        stderr=None,
        unit="ppl/token",
        higher_is_better=False,
        unit_ids=ids,
        clusters=ids,
        sums=sums,
        counts=counts,
        comparison={"data": "abc", "protocol": "documents"},
    )
    return replace(score, **changes)  # type: ignore[arg-type]


def accuracy(outcomes: np.ndarray) -> Score:
    ids = tuple(f"q{i}" for i in range(len(outcomes)))
    return Score(
        metric="acc",
        kind="mean",
        value=float(outcomes.mean()),
        stderr=None,
        unit="fraction",
        higher_is_better=True,
        unit_ids=ids,
        clusters=ids,
        sums=outcomes.astype(np.float64),
        counts=np.ones(len(outcomes)),
    )


def measured(metric: str, value: float, *, higher_is_better: bool = False) -> Score:
    """A measurement that is no sample: memory, survival."""
    none = np.zeros(0)
    return Score(metric, "mean", value, None, "GB", higher_is_better, (), (), none, none)


def gate(**fields: object) -> Gate:
    given = {"metric": "perplexity", "variant": "a", "against": "b", "max_increase": one_percent()}
    return Gate(**{**given, **fields})  # type: ignore[arg-type]


def judge_pair(a: Score, b: Score, **fields: object) -> Verdict:
    metric = a.metric
    found = gate(metric=metric, **fields)
    (verdict,) = judge([found], Evidence({"a": {metric: a}, "b": {metric: b}}, {}))
    return verdict


# Pairs of scores whose verdict is known without running the code: what makes it so.
SITUATIONS = {
    "PASS": (perplexity(0.001, noise=0.005), perplexity()),
    "IMPROVED": (perplexity(-0.05, noise=0.02), perplexity()),
    "REGRESSED": (perplexity(0.10, noise=0.02), perplexity()),
    "INCONCLUSIVE": (perplexity(0.01, noise=0.2), perplexity()),
    "INCOMPARABLE": (perplexity(comparison={"data": "xyz", "protocol": "documents"}), perplexity()),
    "MISSING": (None, perplexity()),
    "ERRORED": (None, perplexity()),
}
# (expect, inconclusive) → the verdicts that are ok; a trailing "!" is ok with a warning.
OK = {
    (None, "fail"): {"PASS", "IMPROVED"},
    (None, "warn"): {"PASS", "IMPROVED", "INCONCLUSIVE!"},
    ("regressed", "fail"): {"REGRESSED", "INCONCLUSIVE!"},
    ("regressed", "warn"): {"REGRESSED", "INCONCLUSIVE!"},
}


@pytest.mark.parametrize(
    ("name", "expect", "inconclusive"),
    [(name, *rule) for name, rule in itertools.product(SITUATIONS, OK)],
)
def test_every_verdict_under_every_rule(name, expect, inconclusive):
    a, b = SITUATIONS[name]
    scores = {"b": {"perplexity": b}} | ({"a": {"perplexity": a}} if a else {})
    errors = {"a": "out of memory"} if name == "ERRORED" else {}
    (verdict,) = judge([gate(expect=expect, inconclusive=inconclusive)], Evidence(scores, errors))
    assert verdict.verdict == name
    ok = OK[expect, inconclusive]
    assert verdict.ok == (name in ok or f"{name}!" in ok)
    assert verdict.warned == (f"{name}!" in ok)
    assert exit_code([verdict]) == (0 if verdict.ok else 1)


def test_exit_code_of_several():
    good = judge_pair(*SITUATIONS["PASS"])
    bad = judge_pair(*SITUATIONS["REGRESSED"])
    assert exit_code([]) == 0
    assert exit_code([good, good]) == 0
    assert exit_code([good, bad]) == 1


# ----------------------------------------------------------------------------- the numbers


def test_a_relative_perplexity_effect_is_the_ratio_of_perplexities():
    a, b = SITUATIONS["REGRESSED"]
    verdict = judge_pair(a, b)
    assert verdict.effect == pytest.approx(a.value / b.value - 1, rel=1e-12)
    assert verdict.low < verdict.effect < verdict.high
    assert (verdict.n_units, verdict.n_clusters) == (UNITS, UNITS)
    assert verdict.effective_clusters == pytest.approx(
        a.counts.sum() ** 2 / (a.counts**2).sum(), rel=1e-12
    )


def test_of_equal_counts_and_symmetric_changes_it_is_a_one_sample_t_test():
    b = replace(perplexity(), counts=np.full(UNITS, 100.0))
    half = np.random.default_rng(3).normal(0.0, 0.03, UNITS // 2)
    delta = 0.012 + np.concatenate([half, -half])
    a = replace(b, sums=b.sums + 100 * delta, value=1.0)
    verdict = judge_pair(a, b)
    expected = stats.ttest_1samp(delta, math.log(1.01), alternative="greater")
    interval = stats.ttest_1samp(delta, 0.0).confidence_interval(0.95)
    assert verdict.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert verdict.low == pytest.approx(math.expm1(interval.low), rel=1e-9)
    assert verdict.high == pytest.approx(math.expm1(interval.high), rel=1e-9)


def test_a_relative_budget_is_compared_on_the_log_scale():
    a, b = perplexity(math.log(1.5)), perplexity()
    assert judge_pair(a, b, max_increase=Budget(0.5 + 1e-9, "relative")).ok
    assert not judge_pair(a, b, max_increase=Budget(0.5 - 1e-9, "relative")).ok


def test_an_absolute_perplexity_budget_is_in_perplexity():
    a, b = perplexity(0.05, noise=0.01), perplexity()
    verdict = judge_pair(a, b, max_increase=Budget(2.0, "absolute"))
    assert verdict.effect == pytest.approx(a.value - b.value, rel=1e-12)
    assert verdict.verdict == "PASS"
    assert judge_pair(a, b, max_increase=Budget(0.1, "absolute")).verdict == "REGRESSED"


def test_a_negative_budget_demands_an_improvement():
    demanded = Budget(-0.03, "relative")
    assert judge_pair(*SITUATIONS["IMPROVED"], max_increase=demanded).verdict == "IMPROVED"
    assert judge_pair(*SITUATIONS["PASS"], max_increase=demanded).verdict == "REGRESSED"
    assert judge_pair(perplexity(), perplexity(), max_increase=demanded).verdict == "REGRESSED"


def test_bit_identical_scores_pass_without_statistics_even_on_one_document():
    verdict = judge_pair(perplexity(units=1), perplexity(units=1))
    assert verdict.verdict == "PASS"
    assert verdict.effect == 0
    assert verdict.p_value is None
    assert verdict.p_adjusted is None
    assert "bit-identical" in verdict.message


def test_one_document_is_inconclusive():
    verdict = judge_pair(perplexity(-0.5, units=1), perplexity(units=1))
    assert verdict.verdict == "INCONCLUSIVE"
    assert verdict.effect == pytest.approx(math.expm1(-0.5))
    assert verdict.low is None


def test_few_clusters_pass_nothing_but_can_regress():
    good = judge_pair(perplexity(-0.05, noise=0.01, units=12), perplexity(units=12))
    assert good.verdict == "INCONCLUSIVE"
    assert good.high < 0
    assert "few clusters (12" in good.message
    bad = judge_pair(perplexity(0.5, noise=0.01, units=12), perplexity(units=12))
    assert bad.verdict == "REGRESSED"


def test_twenty_even_clusters_are_enough():
    even = {"counts": np.full(20, 50.0)}
    a = perplexity(-0.2, noise=0.01, units=20)
    b = perplexity(units=20)
    a, b = (replace(s, sums=s.sums / s.counts * 50, **even) for s in (a, b))
    assert judge_pair(a, b).verdict == "IMPROVED"


def test_uneven_clusters_count_as_the_few_that_they_are():
    clusters = tuple("big" if i < 50 else f"small{i}" for i in range(UNITS))
    a = replace(perplexity(-0.05, noise=0.01), clusters=clusters)
    verdict = judge_pair(a, replace(perplexity(), clusters=clusters))
    assert verdict.n_clusters == 11
    assert verdict.effective_clusters < 2
    assert verdict.verdict == "INCONCLUSIVE"


def test_what_would_settle_it_is_said():
    verdict = judge_pair(perplexity(0.0, noise=0.2), perplexity())
    assert verdict.verdict == "INCONCLUSIVE"
    assert "would settle it" in verdict.message
    hopeless = judge_pair(perplexity(math.log(1.01) + 1e-5, noise=0.2), perplexity())
    assert "too close to the budget to settle" in hopeless.message


def test_the_message_names_training_where_it_was_asked_to():
    a, b = SITUATIONS["PASS"]
    scores = {"a": {"perplexity": a}, "b": {"perplexity": b}}
    (plain,) = judge([gate()], Evidence(scores, {}))
    (named,) = judge([gate()], Evidence(scores, {}, trained={"b"}))
    assert "not training" not in plain.message
    assert "covers documents, not training" in named.message


# ----------------------------------------------------------------------------- accuracy


def flipped(outcomes: np.ndarray, *, lost: int, won: int = 0) -> np.ndarray:
    changed = outcomes.copy()
    changed[np.flatnonzero(outcomes == 1)[:lost]] = 0
    changed[np.flatnonzero(outcomes == 0)[:won]] = 1
    return changed


def test_higher_is_better_with_max_decrease_in_points():
    outcomes = (np.arange(1000) % 10 < 7).astype(float)
    reference, budget = accuracy(outcomes), Budget(0.02, "points")

    def verdict(lost: int, won: int = 0) -> Verdict:
        changed = accuracy(flipped(outcomes, lost=lost, won=won))
        return judge_pair(changed, reference, max_increase=None, max_decrease=budget)

    assert verdict(lost=2).verdict == "PASS"
    assert verdict(lost=18, won=2).verdict == "INCONCLUSIVE"
    assert verdict(lost=0, won=20).verdict == "IMPROVED"
    worse = verdict(lost=100)
    assert worse.verdict == "REGRESSED"
    assert worse.effect == pytest.approx(-0.1)
    assert "-10 pp" in worse.message
    assert "at least -2 pp" in worse.message


def answered(score: Score, log_likelihoods: tuple[float, ...]) -> Score:
    outcome = SampleOutcome("0", "0", True, log_likelihoods)
    return replace(score, outcomes=(outcome,) * len(score.unit_ids))


def test_answers_that_agree_do_not_pass_on_too_few_samples():
    budget = {"max_increase": None, "max_decrease": Budget(0.02, "points")}
    few, many = (accuracy((np.arange(size) % 10 < 7).astype(float)) for size in (50, 500))
    verdict = judge_pair(few, few, **budget)
    assert verdict.verdict == "INCONCLUSIVE"
    assert verdict.low == pytest.approx(-(1 - 0.025 ** (1 / 50)), abs=1e-6)
    assert "no sample flipped" in verdict.message
    assert judge_pair(many, many, **budget).verdict == "PASS"


def test_answers_with_bit_identical_log_likelihoods_are_identical():
    budget = {"max_increase": None, "max_decrease": Budget(0.02, "points")}
    few = accuracy((np.arange(50) % 10 < 7).astype(float))
    same = judge_pair(answered(few, (-1.0, -2.0)), answered(few, (-1.0, -2.0)), **budget)
    assert same.verdict == "PASS"
    assert same.p_value is None
    assert "bit-identical" in same.message
    other = judge_pair(answered(few, (-1.0, -2.0)), answered(few, (-1.0, -2.1)), **budget)
    assert other.verdict == "INCONCLUSIVE"


def test_flips_are_reported_and_decide_nothing():
    outcomes = (np.arange(1000) % 10 < 7).astype(float)
    budget = {"max_increase": None, "max_decrease": Budget(0.05, "points")}
    verdict = judge_pair(accuracy(flipped(outcomes, lost=15, won=2)), accuracy(outcomes), **budget)
    assert (verdict.gained, verdict.lost) == (2, 15)
    assert verdict.mcnemar_p == pytest.approx(stats.binomtest(2, 17).pvalue)
    assert verdict.verdict == "PASS"
    assert "2 gained, 15 lost, McNemar p = 0.0023" in verdict.message
    assert judge_pair(*SITUATIONS["PASS"]).gained is None


def test_a_perfect_accuracy_still_has_an_interval():
    verdict = absolute(accuracy(np.ones(50)), minimum=0.95)
    assert verdict.verdict == "INCONCLUSIVE"
    assert verdict.low == pytest.approx(0.025 ** (1 / 50), abs=1e-6)
    assert verdict.high == 1
    assert absolute(accuracy(np.ones(200)), minimum=0.95).verdict == "PASS"


def test_a_relative_budget_on_a_mean_needs_a_positive_reference():
    a, b = accuracy(np.ones(40)), accuracy(np.zeros(40))
    assert judge_pair(a, b).verdict == "INCOMPARABLE"
    assert judge_pair(b, a, max_increase=None, max_decrease=one_percent()).effect == -1


def test_percentage_points_on_a_perplexity_are_refused():
    verdict = judge_pair(*SITUATIONS["PASS"], max_increase=Budget(0.01, "points"))
    assert verdict.verdict == "INCOMPARABLE"
    assert "percentage points" in verdict.message


# ----------------------------------------------------------------------------- absolute limits


def absolute(score: Score, **limits: float) -> Verdict:
    found = Gate(metric=score.metric, variant="a", **limits)  # type: ignore[arg-type]
    (verdict,) = judge([found], Evidence({"a": {score.metric: score}}, {}))
    return verdict


@pytest.mark.parametrize(
    ("factor", "expected"), [(1.5, "PASS"), (1.0, "INCONCLUSIVE"), (0.7, "REGRESSED")]
)
def test_a_maximum_on_a_perplexity(factor, expected):
    score = perplexity()
    verdict = absolute(score, maximum=score.value * factor)
    assert verdict.verdict == expected
    assert verdict.effect == pytest.approx(score.value, rel=1e-12)
    assert verdict.low < score.value < verdict.high


@pytest.mark.parametrize(
    ("limit", "expected"), [(0.5, "PASS"), (0.7, "INCONCLUSIVE"), (0.9, "REGRESSED")]
)
def test_a_minimum_on_an_accuracy(limit, expected):
    score = accuracy((np.arange(400) % 10 < 7).astype(float))
    assert absolute(score, minimum=limit).verdict == expected


def test_a_measurement_is_compared_as_it_is():
    survival = measured("survival", 0.9, higher_is_better=True)
    assert absolute(survival, minimum=0.9).verdict == "PASS"
    assert absolute(survival, minimum=0.91).verdict == "REGRESSED"
    assert absolute(survival, maximum=0.9).verdict == "PASS"
    assert absolute(survival, maximum=0.89).verdict == "REGRESSED"
    memory = judge_pair(measured("memory", 6.0), measured("memory", 5.0))
    assert memory.verdict == "REGRESSED"
    assert memory.effect == pytest.approx(0.2)
    assert memory.p_value is None
    assert judge_pair(measured("memory", 4.0), measured("memory", 5.0)).verdict == "IMPROVED"


def test_a_gate_without_a_limit_is_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match="no limit"):
        judge([Gate("perplexity", "a")], Evidence({"a": {"perplexity": perplexity()}}, {}))


# ----------------------------------------------------------------------------- not comparable


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"comparison": {"data": "abc", "protocol": "stream"}}, "protocol (stream, documents)"),
        ({"comparison": {"data": "abc"}}, "protocol (nothing, documents)"),
        ({"unit": "ppl/word"}, "unit (ppl/word, ppl/token)"),
        ({"unit_ids": tuple(f"doc{i}" for i in reversed(range(UNITS)))}, "order of the units"),
        ({"unit_ids": tuple(f"doc{i + 3}" for i in range(UNITS))}, "3 of 60 and 3 of 60 unpaired"),
        ({"clusters": ("one",) * UNITS}, "clusters"),
    ],
)
def test_what_differs_is_named(change, named):
    verdict = judge_pair(perplexity(**change), perplexity())
    assert verdict.verdict == "INCOMPARABLE"
    assert named in verdict.message
    assert verdict.effect is None


def test_another_number_of_scored_tokens_is_named_with_its_document():
    counts = perplexity().counts.copy()
    counts[5] += 1
    verdict = judge_pair(perplexity(counts=counts), perplexity())
    assert verdict.verdict == "INCOMPARABLE"
    assert "doc5" in verdict.message


def test_a_score_that_exists_is_judged_although_its_variant_failed_later():
    a, b = SITUATIONS["PASS"]
    (verdict,) = judge(
        [gate()], Evidence({"a": {"perplexity": a}, "b": {"perplexity": b}}, {"a": "samples"})
    )
    assert verdict.verdict == "PASS"


def test_the_error_of_the_reference_is_told():
    (verdict,) = judge(
        [gate()], Evidence({"a": {"perplexity": perplexity()}}, {"b": "no space left"})
    )
    assert verdict.verdict == "ERRORED"
    assert "b failed: no space left" in verdict.message
    (verdict,) = judge([gate()], Evidence({"a": {}}, {}))
    assert verdict.verdict == "MISSING"
    assert "a has no perplexity; b has no perplexity" in verdict.message


# ----------------------------------------------------------------------------- several gates


def borderline() -> Score:
    """Past 1 % with a p-value between 0.0125 and 0.025: alone it regresses, of two it does not."""
    b, noise = perplexity(), 0.05
    unit = perplexity(0.0, noise=noise)
    seen = paired_ratio(unit.sums, b.counts, b.sums, b.counts, b.clusters, bootstrap=None)
    stretch = 1 + skewness_margin(seen, sense=-1) / stats.t.isf(0.025, seen.df)
    distance = stats.t.isf(0.018, seen.df) * stretch
    return perplexity(distance * seen.stderr + math.log(1.01), noise=noise)


def test_holm_is_over_the_gates_without_expect():
    scores = {"a": {"perplexity": borderline()}, "b": {"perplexity": perplexity()}}
    scores["c"] = {"perplexity": perplexity(0.012, noise=0.3)}
    (alone,) = judge([gate()], Evidence(scores, {}))
    assert alone.verdict == "REGRESSED"
    assert alone.p_value == alone.p_adjusted == pytest.approx(0.018, rel=1e-6)
    first, _ = judge([gate(), gate(variant="c")], Evidence(scores, {}))
    assert first.verdict == "INCONCLUSIVE"
    assert first.p_adjusted == pytest.approx(0.036, rel=1e-6)
    assert "not surely" in first.message
    first, second = judge([gate(), gate(variant="c", expect="regressed")], Evidence(scores, {}))
    assert first.verdict == "REGRESSED"
    assert second.p_adjusted is None


def test_identical_scores_take_no_part_in_the_adjustment():
    scores = {"a": {"perplexity": borderline()}, "b": {"perplexity": perplexity()}}
    scores["same"] = {"perplexity": perplexity()}
    first, second = judge([gate(), gate(variant="same")], Evidence(scores, {}))
    assert (first.verdict, second.verdict) == ("REGRESSED", "PASS")


def test_judging_again_says_the_same():
    pair = SITUATIONS["INCONCLUSIVE"]
    assert judge_pair(*pair) == judge_pair(*pair)


def test_verdicts_are_json():
    for a, b in SITUATIONS.values():
        if a is not None:
            json.dumps(asdict(judge_pair(a, b)), allow_nan=False)
