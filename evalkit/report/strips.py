"""The small pictures inside tables: an effect against its budget, and a falling loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evalkit.records import BudgetUnit, Gate, Verdict
from evalkit.report.words import effect_unit

_MARGIN = 0.06


@dataclass(frozen=True)
class Strip:
    """Where the parts of one gate's picture stand, in percent of its width."""

    zero: float
    effect: float
    low: float
    high: float
    allowed_from: float
    allowed_to: float
    budget: float


Domain = tuple[float, float]


def strip_domains(verdicts: Iterable[Verdict]) -> dict[BudgetUnit, Domain]:
    """One shared scale for all gates of a unit, so that their pictures can be compared."""
    values: dict[BudgetUnit, list[float]] = {}
    for verdict in verdicts:
        bound = _budget(verdict.gate)
        if bound is None or verdict.effect is None:
            continue
        drawn = [verdict.effect, verdict.low, verdict.high, bound, 0.0]
        unit = effect_unit(verdict.gate)
        values.setdefault(unit, []).extend(value for value in drawn if value is not None)
    return {unit: _padded(numbers) for unit, numbers in values.items()}


def strip(verdict: Verdict, domains: Mapping[BudgetUnit, Domain]) -> Strip | None:
    """The picture of a verdict, None where it has no effect or is an absolute limit."""
    bound = _budget(verdict.gate)
    domain = domains.get(effect_unit(verdict.gate))
    if bound is None or verdict.effect is None or domain is None:
        return None
    start, end = domain

    def place(value: float | None) -> float:
        number = verdict.effect if value is None else value
        assert number is not None
        return round(100 * (number - start) / (end - start), 2)

    increase = verdict.gate.max_increase is not None
    return Strip(
        zero=place(0.0),
        effect=place(verdict.effect),
        low=place(verdict.low),
        high=place(verdict.high),
        allowed_from=0.0 if increase else place(bound),
        allowed_to=place(bound) if increase else 100.0,
        budget=place(bound),
    )


def sparkline(values: Sequence[float], *, width: int = 220, height: int = 40) -> str:
    """The points of an SVG polyline through the values. Empty for fewer than two."""
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    inner = height - 6
    return " ".join(
        f"{index * width / (len(values) - 1):.1f},{3 + inner * (high - value) / span:.1f}"
        for index, value in enumerate(values)
    )


def loss_history(facts: Mapping[str, Any]) -> list[float]:
    """The losses that a training job recorded: numbers, (step, loss) pairs, or mappings."""
    for key, value in facts.items():
        if "loss" in key and isinstance(value, list | tuple) and len(value) > 1:
            losses = [_loss(entry) for entry in value]
            return [loss for loss in losses if loss is not None]
    return []


def _loss(entry: object) -> float | None:
    if isinstance(entry, Mapping):
        entry = entry.get("loss")
    elif isinstance(entry, list | tuple) and entry:
        entry = entry[-1]
    return float(entry) if isinstance(entry, int | float) else None


def _budget(gate: Gate) -> float | None:
    """The signed bound of a difference gate: +0.1 for `max_increase: 10%`, −0.02 for a decrease."""
    if gate.max_increase is not None:
        return gate.max_increase.amount
    if gate.max_decrease is not None:
        return -gate.max_decrease.amount
    return None


def _padded(values: Sequence[float]) -> Domain:
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return low - _MARGIN * span, high + _MARGIN * span
