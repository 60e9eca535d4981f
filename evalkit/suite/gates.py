"""Gates: from what a suite writes to the records that are judged."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    ValidationInfo,
    model_validator,
)

from evalkit.records import BASELINE, COSTS, DIVERGENCE, SURVIVAL, Budget, Gate
from evalkit.suite.fields import (
    Found,
    Number,
    Spec,
    Text,
    VariantReference,
    names_of,
    refuse,
    shown,
    unknown,
    wrong,
)
from evalkit.suite.perplexity import PERPLEXITY
from evalkit.suite.problems import read_model
from evalkit.suite.tasks import found_in_task_budget, is_task_metric

_READINGS = ("bits_per_byte", "word_perplexity")
_BUDGET = re.compile(r"\s*([-+]?[0-9]{1,9}(?:\.[0-9]{1,18})?(?:[eE][-+]?[0-9]{1,3})?)\s*(%|pp)\s*")


def _budget(value: object) -> object:
    """Return `1%`, `2pp` or a bare number as a budget."""
    if value is None or isinstance(value, Budget):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value)
        if abs(number) < float("inf"):
            return Budget(number, "absolute")
    match = _BUDGET.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        allowed = "1% of the reference, 2pp for percentage points, or a bare number"
        raise wrong(f"{shown(value)!r} is no budget (allowed: {allowed})")
    amount = float(Decimal(match[1]) / 100)
    return Budget(amount, "relative" if match[2] == "%" else "points")


def _budget_json(budget: Budget | None) -> str | float | None:
    if budget is None or budget.unit == "absolute":
        return None if budget is None else budget.amount
    percent = Decimal(repr(budget.amount)) * 100
    return f"{percent:f}{'%' if budget.unit == 'relative' else 'pp'}"


BudgetField = Annotated[Budget | None, BeforeValidator(_budget), PlainSerializer(_budget_json)]


def _metric(name: str, info: ValidationInfo) -> str:
    names = names_of(info)
    task, _, rest = name.partition("/")
    if names is None or is_task_metric(name, names.tasks):
        return name
    wanted = rest if rest and task not in names.tasks else "acc"
    examples = [f"{known}/{wanted}" for known in names.tasks]
    what = unknown(name, [*names.metrics, *examples, SURVIVAL, *COSTS], what="metric")
    if what is not None and name.rpartition("/")[2] in _READINGS:
        what += "; it comes from the same losses as perplexity: gate that"
    if what is not None and name == DIVERGENCE:
        what = "the suite measures no divergence: say from which variant, under metrics.divergence"
    if what is not None:
        raise wrong(what)
    return name


def _reference(name: str, info: ValidationInfo) -> str:
    names = names_of(info)
    if name == BASELINE or names is None or names.variants is None or name in names.variants:
        return name
    what = unknown(name, [*names.variants, BASELINE], what="variant")
    raise wrong(str(what))


class GateSpec(Spec):
    """One promise about one metric of one variant. Give exactly one of the four limits."""

    metric: Annotated[Text, AfterValidator(_metric)]
    """`perplexity`, or `perplexity/NAME` where the suite names several corpora; `TASK/acc`;
    `divergence`, the KL from the reference in nats per token; `survival`, how much of an adapter a
    merge left in the weights (1 is all of it), with `min`; or a cost: `disk` and `memory` in bytes,
    and, read off once and therefore rough, `peak_memory` (bytes), `load_seconds`, `scoring_speed`
    and `decode_speed` (tokens a second)."""
    variant: VariantReference
    """The variant that promises."""
    against: Annotated[Text, AfterValidator(_reference)] | None = None
    """The variant it is compared with, for `max_increase` and `max_decrease`; or `baseline`: the
    same variant of the run that was promoted."""
    max_increase: BudgetField = None
    """How much higher than the reference, for metrics that are better when lower: `1%` of it,
    or a bare number in the metric's unit. Below zero it asks for an improvement."""
    max_decrease: BudgetField = None
    """How much lower than the reference, for metrics that are better when higher: `2pp`
    (percentage points) or a bare number."""
    minimum: Number | None = Field(default=None, alias="min")
    """The least value; needs no reference."""
    maximum: Number | None = Field(default=None, alias="max")
    """The greatest value; needs no reference."""
    expect: Literal["regressed"] | None = None
    """`regressed` documents a known loss: the gate is ok while the loss is there."""
    inconclusive: Literal["fail", "warn"] = "fail"
    """What a result that decides nothing counts as."""

    @model_validator(mode="after")
    def _consistent(self) -> GateSpec:
        found = [*self._found_in_limits(), *self._found_in_budget()]
        if self.against == self.variant:
            found.append((("against",), "is the variant itself"))
        if found:
            refuse(found)
        return self

    def _found_in_limits(self) -> list[Found]:
        limits = {
            "max_increase": self.max_increase,
            "max_decrease": self.max_decrease,
            "min": self.minimum,
            "max": self.maximum,
        }
        given = [key for key, value in limits.items() if value is not None]
        if len(given) != 1:
            what = " and ".join(given) or "none"
            return [((), f"give exactly one of {', '.join(limits)}, not {what}")]
        if given[0].startswith("max_") and self.against is None:
            return [((), f"{given[0]} needs 'against', the variant to compare with, or baseline")]
        if given[0] in ("min", "max") and self.against is not None:
            return [(("against",), f"goes without '{given[0]}', which is a limit of its own")]
        return []

    def _found_in_budget(self) -> list[Found]:
        if self.metric == SURVIVAL and self.minimum is None:
            return [((), "survival is measured and not compared: give min, as in 'min: 0.9'")]
        if self.metric in COSTS or self.metric == DIVERGENCE:
            return self._found_in_measured()
        if self.metric.partition("/")[0] != PERPLEXITY:
            return found_in_task_budget(self.metric, self.max_increase, self.max_decrease)
        found: list[Found] = []
        if self.max_decrease is not None:
            found.append((("max_decrease",), "perplexity is better when lower: use max_increase"))
        budget = self.max_increase
        if budget is not None and budget.unit == "points":
            what = "perplexity has no percentage points: write 1% of the reference, or a number"
            found.append((("max_increase",), what))
        elif budget is not None and budget.unit == "relative" and budget.amount <= -1:
            found.append((("max_increase",), "must be more than -100%: no perplexity is 0"))
        return found

    def _found_in_measured(self) -> list[Found]:
        """Of a cost or a divergence: which way is worse, and in what it is counted."""
        is_better_higher = self.metric in COSTS and COSTS[self.metric].higher_is_better
        key, budget = ("max_increase", self.max_increase)
        other, way = "max_decrease", "higher"
        if not is_better_higher:
            key, budget, other, way = "max_decrease", self.max_decrease, "max_increase", "lower"
        if budget is not None:
            return [((key,), f"{self.metric} is better when {way}: use {other}")]
        budget = self.max_increase or self.max_decrease
        if budget is not None and budget.unit == "points":
            what = f"{self.metric} has no percentage points: write 5% of the reference, or a number"
            return [((other,), what)]
        return []

    def gate(self) -> Gate:
        """Return the record that is judged."""
        return Gate(**{name: getattr(self, name) for name in type(self).model_fields})


def read_gates(value: object, info: ValidationInfo) -> tuple[Gate, ...]:
    """Return the gates of a suite's list.

    Raises:
        PydanticCustomError: everything wrong with any of them.
    """
    if isinstance(value, tuple) and all(isinstance(item, Gate) for item in value):
        return value
    if not isinstance(value, list):
        raise wrong(f"must be a list of gates, not {shown(value)}")
    found: list[Found] = []
    gates: list[Gate] = []
    for index, item in enumerate(value):
        spec = read_model(GateSpec, item, names=names_of(info), at=(index,), found=found)
        gates.extend([spec.gate()] if spec is not None else [])
    if found:
        refuse(found)
    return tuple(gates)


def gates_json(gates: Sequence[Gate]) -> list[dict[str, Any]]:
    """Return gates as a suite would write them."""
    return [
        GateSpec(**{name: getattr(gate, name) for name in GateSpec.model_fields}).model_dump(
            mode="json", by_alias=True, exclude_none=True
        )
        for gate in gates
    ]
