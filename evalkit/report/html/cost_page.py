"""What the page shows of costs and of the variant to ship: everything that its templates name."""

from __future__ import annotations

from typing import Any

from evalkit.records import RunRecord
from evalkit.report.advice import advice
from evalkit.report.costs import ON_THE_FRONT, READ_ONCE, cost_table
from evalkit.report.html.drawings import Drawings
from evalkit.report.html.front_chart import front_chart
from evalkit.report.trade_off import trade_off


def cost_context(run: RunRecord, drawings: Drawings) -> dict[str, Any]:
    """The variables of `advice.html.j2` and `costs.html.j2`."""
    found = trade_off(run)
    return {
        "advice": advice(run) if run.verdicts else None,
        "costs": cost_table(run),
        "front_chart": drawings.picture(front_chart, found) if found is not None else None,
        "read_once": READ_ONCE,
        "on_the_front": ON_THE_FRONT,
    }
