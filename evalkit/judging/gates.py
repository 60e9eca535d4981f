"""Gates on scores become verdicts: pure, so that a stored run is judged again without a model.

The rules, for a gate whose worst allowed effect is b (all tests at one-sided 2.5 %):

1. A score that is absent is MISSING, or ERRORED where its variant failed.
2. Scores that do not share data, protocol, tokenizer and the units themselves, in order, are
   INCOMPARABLE.
3. Scores that are bit-identical (of a task: log-likelihoods and all), or that were measured rather
   than sampled (they have no units: memory, survival), are compared as they are: PASS, IMPROVED or
   REGRESSED.
4. REGRESSED: H0 "the effect is not past b" is rejected. The p-value is Holm-adjusted over the
   gates without `expect`; a gate with `expect` stands alone. This holds with few clusters too: a
   large loss seen on a few conversations is a loss, while the same few cannot show that there is
   none.
5. PASS: the 95 % interval lies within b, and there are at least 20 effective clusters. IMPROVED: a
   PASS whose interval lies wholly on the better side of zero.
6. INCONCLUSIVE: the rest; also where the budget is under the machine's noise floor and the
   verdict would say more than scoring twice can tell (`evalkit.judging.noise`).

The effect of an adapter that was trained with several seeds is the mean over them, or that of the
one that ships; the variance between seeds is in its interval (`evalkit.judging.training_spread`).

That "every gate passes" needs no adjustment is the intersection–union principle: R. L. Berger,
"Multiparameter hypothesis testing and acceptance sampling", *Technometrics* 24 (1982).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from evalkit.judging.budgets import BudgetTest, IncomparableError, absolute_test, difference_test
from evalkit.judging.noise import (
    Floors,
    drowned_words,
    drowns,
    floor_in_test,
    floor_under,
    shown_floor,
)
from evalkit.judging.training_spread import Sides, seed_draws, test_over_seeds
from evalkit.judging.verdict_text import not_judged_sentence, verdict_sentence
from evalkit.records import (
    BASELINE,
    Baseline,
    Gate,
    Repeat,
    Score,
    Verdict,
    VerdictName,
)
from evalkit.statistics.clusters import ALPHA, Bootstrap, holm

__all__ = ["BASELINE", "Evidence", "examine", "exit_code", "judge"]

Scores = Mapping[str, Mapping[str, Score]]

_BOOTSTRAP = Bootstrap()


@dataclass(frozen=True)
class Evidence:
    """Everything that gates are judged by."""

    scores: Scores
    """By variant, then by metric; what could not be scored is absent."""
    errors: Mapping[str, str] = field(default_factory=dict)
    """By variant, why its job failed."""
    trained: Collection[str] = ()
    """Variants with an adapter that was trained in this suite."""
    repeats: Mapping[str, tuple[Repeat, ...]] = field(default_factory=dict)
    """By variant: the same one with other seeds, or scored in other batches."""
    averaged: Collection[str] = ()
    """Variants whose adapter the suite trains with several seeds: gates judge their mean."""
    floors: Floors = field(default_factory=dict)
    """By variant, then by metric: what scoring twice moves on this machine."""
    baseline: Baseline | None = None
    """What gates with `against: baseline` are judged by."""
    promote: str = ""
    """The command that promotes this run, for a gate that finds no baseline."""


def judge(
    gates: Sequence[Gate], evidence: Evidence, *, bootstrap: Bootstrap | None = _BOOTSTRAP
) -> tuple[Verdict, ...]:
    """Judge every gate; one verdict each, in the gates' order.

    Args:
        gates: as the suite states them.
        evidence: what they are judged by.
        bootstrap: how the cross-check draws; None leaves it out.

    Raises:
        ValueError: a gate without a limit, which a loaded suite cannot hold.
    """
    examined = [examine(gate, evidence, bootstrap) for gate in gates]
    adjusted = _adjusted_p_values(examined)
    return tuple(
        item if isinstance(item, Verdict) else _decide(item, adjusted.get(index), evidence)
        for index, item in enumerate(examined)
    )


def exit_code(verdicts: Sequence[Verdict]) -> Literal[0, 1]:
    """0 where every gate is ok, 1 where one is not."""
    return 0 if all(verdict.ok for verdict in verdicts) else 1


def is_ok(gate: Gate, verdict: VerdictName) -> tuple[bool, bool]:
    """Whether a verdict is ok for its gate, and whether it is ok with a warning.

    `expect: regressed` turns the table around: the loss is documented, so REGRESSED is ok, an
    INCONCLUSIVE only warns, and a PASS is not ok, for the note is out of date. A check that did
    not happen is never ok.
    """
    if gate.expect == "regressed":
        return verdict in ("REGRESSED", "INCONCLUSIVE"), verdict == "INCONCLUSIVE"
    if verdict == "INCONCLUSIVE":
        return gate.inconclusive == "warn", gate.inconclusive == "warn"
    return verdict in ("PASS", "IMPROVED"), False


def examine(gate: Gate, evidence: Evidence, bootstrap: Bootstrap | None) -> BudgetTest | Verdict:
    """The gate's test, or the verdict where there is nothing to test."""
    variants = {gate.variant} if gate.against in (None, BASELINE) else {gate.variant, gate.against}
    scores = evidence.scores
    absent = [
        name for name in sorted(filter(None, variants)) if gate.metric not in scores.get(name, {})
    ]
    if failed := [name for name in absent if name in evidence.errors]:
        reasons = [f"{name} failed: {evidence.errors[name]}" for name in failed]
        return _not_judged(gate, "ERRORED", reasons)
    if absent:
        return _not_judged(gate, "MISSING", [f"{name} has no {gate.metric}" for name in absent])
    reference = None if gate.against is None else _reference(gate, evidence)
    if isinstance(reference, str):
        return _not_judged(gate, "MISSING", [reference])
    try:
        return _test(gate, (scores[gate.variant][gate.metric], reference), evidence, bootstrap)
    except IncomparableError as reason:
        return _not_judged(gate, "INCOMPARABLE", [str(reason), *_way_on(gate, evidence)])


def _test(gate: Gate, ships: Sides, evidence: Evidence, bootstrap: Bootstrap | None) -> BudgetTest:
    """The gate's test, over the training seeds that there are, with the machine's noise beside it.

    A baseline was trained once, so what ships is compared with it and not a mean over seeds.
    """

    def make(score: Score, reference: Score | None, draws: Bootstrap | None) -> BudgetTest:
        if reference is None:
            return absolute_test(gate, score, bootstrap=draws)
        return difference_test(gate, score, reference, bootstrap=draws)

    seeded = {name for name in (gate.variant, gate.against) if name in _seeded(evidence)}
    averaged = gate.against != BASELINE and seeded <= set(evidence.averaged)
    draws = seed_draws(gate, ships, evidence.repeats)
    test = test_over_seeds(make, draws, averaged=averaged, bootstrap=bootstrap)
    floor = floor_under(gate, evidence.floors)
    return test if floor is None else replace(test, noise_floor=floor_in_test(floor, gate, ships))


def _seeded(evidence: Evidence) -> set[str]:
    """Variants that were trained with further seeds."""
    found = evidence.repeats.items()
    return {name for name, repeats in found if any(repeat.kind == "seed" for repeat in repeats)}


def _reference(gate: Gate, evidence: Evidence) -> Score | str:
    """What the gate's variant is compared with, or why there is nothing."""
    if gate.against is not None and gate.against != BASELINE:
        return evidence.scores[gate.against][gate.metric]
    baseline = evidence.baseline
    if baseline is None:
        return f"no baseline was promoted yet; to make this run one: {evidence.promote}"
    score = baseline.scores.get(gate.variant, {}).get(gate.metric)
    if score is None:
        what = f"baseline {baseline.name!r} (run {baseline.run}) has no {gate.metric} of it"
        return f"{what}; to make this run the baseline: {evidence.promote}"
    return score


def _way_on(gate: Gate, evidence: Evidence) -> list[str]:
    if gate.against != BASELINE or not evidence.promote:
        return []
    return [f"if that is meant, make this run the baseline: {evidence.promote} --force"]


def _not_judged(gate: Gate, verdict: VerdictName, reasons: Sequence[str]) -> Verdict:
    ok, warned = is_ok(gate, verdict)
    message = not_judged_sentence(gate, reasons)
    return Verdict(gate=gate, verdict=verdict, ok=ok, warned=warned, message=message)


def _adjusted_p_values(examined: Sequence[BudgetTest | Verdict]) -> dict[int, float]:
    """Holm over the gates without `expect` that have a p-value; by index."""
    family = {
        index: item.p_value
        for index, item in enumerate(examined)
        if isinstance(item, BudgetTest) and item.gate.expect is None and item.p_value is not None
    }
    return dict(zip(family, holm(list(family.values())), strict=True))


def _decide(test: BudgetTest, p_adjusted: float | None, evidence: Evidence) -> Verdict:
    gate, seen = test.gate, test.comparison
    name = _verdict_name(test, p_adjusted)
    floor = floor_under(gate, evidence.floors)
    noise = ""
    if floor is not None and drowns(test, name):
        name, noise = "INCONCLUSIVE", drowned_words(gate, floor)
    ok, warned = is_ok(gate, name)
    low, high = test.shown_interval(seen.low, seen.high)
    bootstrap_low, bootstrap_high = test.shown_interval(seen.bootstrap_low, seen.bootstrap_high)
    return Verdict(
        gate=gate,
        verdict=name,
        ok=ok,
        warned=warned,
        effect=test.show(seen.effect),
        low=low,
        high=high,
        p_value=test.p_value,
        p_adjusted=p_adjusted,
        n_units=seen.n_units,
        n_clusters=seen.n_clusters,
        effective_clusters=seen.effective_clusters,
        bootstrap_low=bootstrap_low,
        bootstrap_high=bootstrap_high,
        gained=None if test.flips is None else test.flips.gained,
        lost=None if test.flips is None else test.flips.lost,
        mcnemar_p=None if test.flips is None else test.flips.p_value,
        noise_floor=shown_floor(test),
        training_spread=test.training_spread,
        n_seeds=test.n_seeds,
        message=verdict_sentence(
            test,
            name,
            p_adjusted,
            trained=set(evidence.trained) - _seeded(evidence),
            noise=noise,
        ),
    )


def _verdict_name(test: BudgetTest, p_adjusted: float | None) -> VerdictName:
    seen = test.comparison
    if seen.exact:
        if test.past(seen.effect) > 0:
            return "REGRESSED"
        return "IMPROVED" if test.is_better(seen.effect) else "PASS"
    p_value = test.p_value if p_adjusted is None else p_adjusted
    if p_value is None or seen.low is None or seen.high is None:
        return "INCONCLUSIVE"
    if p_value <= ALPHA:
        return "REGRESSED"
    worst = seen.high if test.sense > 0 else seen.low
    if seen.few_clusters or test.past(worst) > 0:
        return "INCONCLUSIVE"
    return "IMPROVED" if test.is_better(worst) else "PASS"
