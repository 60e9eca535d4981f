"""Gates on scores become verdicts: pure, so that a stored run is judged again without a model.

The rules, for a gate whose worst allowed effect is b (all tests at one-sided 2.5 %):

1. A score that is absent is MISSING, or ERRORED where its variant failed.
2. Scores that do not share data, protocol, tokenizer and the units themselves, in order, are
   INCOMPARABLE.
3. Scores that are bit-identical, or that were measured rather than sampled (they have no units:
   memory, survival), are compared as they are: PASS, IMPROVED or REGRESSED.
4. REGRESSED: H0 "the effect is not past b" is rejected. The p-value is Holm-adjusted over the
   gates without `expect`; a gate with `expect` stands alone. This holds with few clusters too,
   where the test's degrees of freedom drop from G − 1 to G_eff − 1: a large loss seen on a few
   conversations is a loss, while the same few cannot show that there is none.
5. PASS: the upper 97.5 % limit is not past b, and there are at least 20 effective clusters.
   IMPROVED: a PASS whose 95 % interval lies wholly on the better side of zero.
6. INCONCLUSIVE: the rest.

That "every gate passes" needs no adjustment is the intersection–union principle: R. L. Berger,
"Multiparameter hypothesis testing and acceptance sampling", *Technometrics* 24 (1982).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from evalkit.budgets import BudgetTest, IncomparableError, absolute_test, difference_test
from evalkit.records import Gate, Score, Verdict, VerdictName
from evalkit.statistics import ALPHA, Bootstrap, holm
from evalkit.verdict_text import not_judged_sentence, verdict_sentence

__all__ = ["exit_code", "judge"]

Scores = Mapping[str, Mapping[str, Score]]
_BOOTSTRAP = Bootstrap()


def judge(
    gates: Sequence[Gate],
    scores: Scores,
    errors: Mapping[str, str],
    *,
    trained: Collection[str] = (),
    bootstrap: Bootstrap | None = _BOOTSTRAP,
) -> tuple[Verdict, ...]:
    """Judge every gate; one verdict each, in the gates' order.

    Args:
        gates: as the suite states them.
        scores: by variant, then by metric; what could not be scored is absent.
        errors: by variant, why its job failed.
        trained: variants with an adapter that was trained in this suite; their verdicts say that
            the interval covers documents and not training.
        bootstrap: how the cross-check draws; None leaves it out.

    Raises:
        ValueError: a gate without a limit, which a loaded suite cannot hold.
    """
    examined = [_examine(gate, scores, errors, bootstrap) for gate in gates]
    adjusted = _adjusted_p_values(examined)
    return tuple(
        item if isinstance(item, Verdict) else _decide(item, adjusted.get(index), trained)
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


def _examine(
    gate: Gate, scores: Scores, errors: Mapping[str, str], bootstrap: Bootstrap | None
) -> BudgetTest | Verdict:
    """The gate's test, or the verdict where there is nothing to test."""
    names = [gate.variant] if gate.against is None else [gate.variant, gate.against]
    absent = [name for name in names if gate.metric not in scores.get(name, {})]
    if failed := [name for name in absent if name in errors]:
        reasons = [f"{name} failed: {errors[name]}" for name in failed]
        return _not_judged(gate, "ERRORED", reasons)
    if absent:
        return _not_judged(gate, "MISSING", [f"{name} has no {gate.metric}" for name in absent])
    score = scores[gate.variant][gate.metric]
    try:
        if gate.against is None:
            return absolute_test(gate, score, bootstrap=bootstrap)
        reference = scores[gate.against][gate.metric]
        return difference_test(gate, score, reference, bootstrap=bootstrap)
    except IncomparableError as reason:
        return _not_judged(gate, "INCOMPARABLE", [str(reason)])


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


def _decide(test: BudgetTest, p_adjusted: float | None, trained: Collection[str]) -> Verdict:
    gate, seen = test.gate, test.comparison
    name = _verdict_name(test, p_adjusted)
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
        message=verdict_sentence(test, name, p_adjusted, trained=trained),
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
