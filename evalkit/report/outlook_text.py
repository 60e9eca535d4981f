"""What gates could see, in words: for the plan of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from evalkit.judging.budgets import BudgetTest
from evalkit.judging.outlook import Outlook, asks_for_change, few_clusters
from evalkit.report.words import effect_unit, figure, rule_words
from evalkit.statistics.clusters import FEW_CLUSTERS

_UNITS = {"relative": (100, " %"), "points": (100, " pp"), "absolute": (1, "")}


@dataclass(frozen=True)
class OutlookRow:
    """One gate's line in a plan."""

    gate: str
    sees: str
    """The smallest change that would be called a regression, with 80 % power."""
    unchanged: str
    """Whether a model that did not change would pass, and what it would take."""
    basis: str


def outlook_row(outlook: Outlook) -> OutlookRow:
    """A gate's outlook in words."""
    gate = outlook.gate
    rule = f"{gate.variant}: {rule_words(gate)}"
    test, visible = outlook.test, outlook.visible
    if test is None or visible is None:
        return OutlookRow(rule, "?", outlook.problem or "not known yet", outlook.basis)
    if visible.regression is None:
        return OutlookRow(rule, "nothing", "no: a single cluster has no interval", outlook.basis)
    return OutlookRow(rule, _sees(test, visible.regression), _unchanged(outlook), outlook.basis)


def _sees(test: BudgetTest, regression: float) -> str:
    if test.gate.against is None:
        end = "or more" if test.sense > 0 else "or less"
        return f"{figure(test.show(regression))} {end}"
    moved = test.sense * regression
    change = "a rise" if (test.sense > 0) == (moved > 0) else "a fall"
    return f"{change} of {_amount(test, regression)} or {'more' if moved > 0 else 'less'}"


def _unchanged(outlook: Outlook) -> str:
    test, visible = outlook.test, outlook.visible
    assert test is not None
    assert visible is not None
    if test.gate.expect == "regressed":
        return "expected to regress"
    if asks_for_change(outlook):
        return "no: an improvement is asked for"
    if few_clusters(outlook) or visible.least_budget is None:
        even = test.comparison.effective_clusters
        return f"no: {_noun(test)} worth {even:.1f} even ones, {FEW_CLUSTERS:.0f} are needed"
    least = _amount(test, visible.least_budget)
    if visible.passes_unchanged:
        return f"yes (down to {least})"
    more = "" if outlook.units_needed is None else f", or about {_more(outlook)}"
    what = "needs a budget of" if test.gate.against is not None else "needs a limit of"
    return f"no: {what} {least}{more}"


def _more(outlook: Outlook) -> str:
    """'340 documents', to two digits: more would feign a precision that a forecast has not."""
    assert outlook.test is not None
    assert outlook.units_needed is not None
    step = 10 ** max(0, len(str(outlook.units_needed)) - 2)
    return f"{math.ceil(outlook.units_needed / step) * step:,} {_noun(outlook.test)}"


def _noun(test: BudgetTest) -> str:
    if test.comparison.n_clusters != test.comparison.n_units:
        return "clusters"
    return "documents" if test.gate.metric.partition("/")[0] == "perplexity" else "samples"


def _amount(test: BudgetTest, effect: float) -> str:
    """A change without its sign; a value where the gate is a limit on one."""
    factor, unit = _UNITS[effect_unit(test.gate)]
    if test.gate.against is None:
        return figure(test.show(effect))
    return f"{abs(test.show(effect)) * factor:.2g}{unit}"
