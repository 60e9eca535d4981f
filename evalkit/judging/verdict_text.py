"""The sentence of a verdict: what was seen, what was allowed, and what would settle it. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from evalkit.judging.budgets import BudgetTest
from evalkit.records import Gate, VerdictName
from evalkit.statistics.clusters import ALPHA, FEW_CLUSTERS, clusters_to_settle
from evalkit.statistics.flips import Flips

_NEGLIGIBLE = 0.05
"""Share of training in the variance, under which documents alone are reckoned with."""


def not_judged_sentence(gate: Gate, reasons: Sequence[str]) -> str:
    """Why a gate could not be judged."""
    against = "" if gate.against is None else f" against {gate.against}"
    return f"{gate.metric} of {gate.variant}{against}: {'; '.join(reasons)}"


def verdict_sentence(
    test: BudgetTest,
    verdict: VerdictName,
    p_adjusted: float | None,
    *,
    trained: Collection[str],
    noise: str = "",
) -> str:
    """What was seen, and what follows from it.

    Args:
        test: the gate's test.
        verdict: what it came to.
        p_adjusted: Holm's p-value, where the gate takes part in the adjustment.
        trained: variants whose adapter was trained in this suite, with one seed.
        noise: why the machine's noise leaves the verdict open, where it does.
    """
    parts = [f"{_seen(test)}, {_allowed(test)}"]
    if test.flips is not None and not test.comparison.identical:
        parts.append(_flips(test.flips))
    if verdict == "INCONCLUSIVE":
        parts.append(noise or _open_question(test, p_adjusted))
    elif verdict == "REGRESSED":
        parts.append(_loss(test, p_adjusted))
    elif test.gate.expect == "regressed":
        parts.append("the loss is gone: remove `expect: regressed`")
    if not test.comparison.exact:
        parts += _cautions(test, verdict, trained)
    return "; ".join(parts)


def _seen(test: BudgetTest) -> str:
    gate, seen = test.gate, test.comparison
    subject = f"{gate.metric} of {gate.variant}"
    if seen.identical:
        return f"{subject} is bit-identical to that of {gate.against}"
    interval = ""
    if not seen.exact and seen.low is not None and seen.high is not None:
        interval = f" (95 % CI {_amount(test, seen.low)} to {_amount(test, seen.high)})"
    against = "" if gate.against is None else f" against {gate.against}"
    return f"{subject} is {_amount(test, seen.effect)}{against}{interval}"


def _flips(flips: Flips) -> str:
    if flips.gained + flips.lost == 0:
        return "no sample flipped"
    return f"{flips.gained:,} gained, {flips.lost:,} lost, McNemar {_p(flips.p_value)}"


def _allowed(test: BudgetTest) -> str:
    end = "at most" if test.sense > 0 else "at least"
    return f"{end} {_amount(test, test.limit)} allowed"


def _amount(test: BudgetTest, effect: float) -> str:
    """An effect in the gate's own unit, differences with their sign."""
    shown = test.show(effect)
    budget = test.gate.max_increase or test.gate.max_decrease
    if budget is None:
        return _digits(shown)
    if budget.unit == "absolute":
        return _digits(shown, "+")
    return f"{_digits(shown * 100, '+')} {'%' if budget.unit == 'relative' else 'pp'}"


def _digits(value: float, sign: str = "-") -> str:
    """Three significant digits, no exponent for the numbers that people meet."""
    if abs(value) >= 100:
        return f"{value:{sign}.0f}"
    return f"{value:{sign}.3g}"


def _loss(test: BudgetTest, p_adjusted: float | None) -> str:
    expected = ", as expected" if test.gate.expect == "regressed" else ""
    if test.p_value is None:
        return f"past it{expected}"
    return f"past it{expected} ({_p_text(test.p_value, p_adjusted)})"


def _p_text(p_value: float, p_adjusted: float | None) -> str:
    """The p-value that decides."""
    return _p(p_value) if p_adjusted is None else f"Holm-adjusted {_p(p_adjusted)}"


def _p(value: float) -> str:
    return "p < 0.0001" if value < 1e-4 else f"p = {value:.2g}"


def _open_question(test: BudgetTest, p_adjusted: float | None) -> str:
    """Why it is open, and what would settle it."""
    seen = test.comparison
    if seen.low is None or seen.high is None:
        least = math.ceil(FEW_CLUSTERS)
        return f"a single cluster has no interval: at least {least} even ones are needed"
    best, worst = (seen.low, seen.high) if test.sense > 0 else (seen.high, seen.low)
    if test.past(worst) <= 0:
        enough = math.ceil(FEW_CLUSTERS * seen.n_clusters / seen.effective_clusters)
        return (
            f"few clusters ({seen.n_clusters}, worth {seen.effective_clusters:.1f} even ones): "
            f"no pass on the interval alone; about {enough} like these are needed"
        )
    why = "the interval holds the budget"
    if test.past(best) > 0 and test.p_value is not None:
        why = f"past it, but not surely ({_p_text(test.p_value, p_adjusted)} > {ALPHA:g})"
    if test.training_share > _NEGLIGIBLE:
        more = "more" if test.training_share > 0.5 else "more documents and more"
        return f"{why}: {more} training seeds would settle it"
    wanted = clusters_to_settle(seen, test.limit)
    if wanted is None:
        return "too close to the budget to settle"
    return (
        f"{why}: about {_rounded_up(wanted)} clusters like these {seen.n_clusters} would settle "
        "it, if the effect stays as seen, for 80 % power"
    )


def _rounded_up(clusters: int) -> str:
    """To two digits: more would feign a precision that a planning figure does not have."""
    step = 10 ** max(0, len(str(clusters)) - 2)
    return f"{math.ceil(clusters / step) * step:,}"


def _cautions(test: BudgetTest, verdict: VerdictName, trained: Collection[str]) -> list[str]:
    seen, cautions = test.comparison, []
    ends = (seen.bootstrap_low, seen.bootstrap_high)
    if ends[0] is not None and ends[1] is not None:
        best, worst = (ends[0], ends[1]) if test.sense > 0 else (ends[1], ends[0])
        doubted = verdict in ("PASS", "IMPROVED") and test.past(worst) > 0
        if doubted or (verdict == "REGRESSED" and test.past(best) <= 0):
            interval = f"{_amount(test, ends[0])} to {_amount(test, ends[1])}"
            cautions.append(f"the cluster bootstrap does not agree ({interval})")
    return [*cautions, *_training(test, trained)]


def _training(test: BudgetTest, trained: Collection[str]) -> list[str]:
    once = [name for name in (test.gate.variant, test.gate.against) if name in trained]
    if test.n_seeds is None or test.training_spread is None:
        return ["the interval covers documents, not training"] if once else []
    budget = test.gate.max_increase or test.gate.max_decrease
    spread, unit = test.training_spread, ""
    if budget is not None and budget.unit != "absolute":
        spread, unit = 100 * spread, " %" if budget.unit == "relative" else " pp"
    words = f"over {test.n_seeds} training seeds (spread {_digits(spread)}{unit})"
    return [f"{words}, not over those of {once[0]}" if once else words]
