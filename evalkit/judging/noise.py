"""The machine's noise: what scoring the same weights twice moves, and what drowns in it. Pure.

An A/A repeat scores one variant again in other batches, so every difference is rounding. What it
says holds for the same measure, base, dtypes, device, threads and package versions, whatever else
is done to the weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from evalkit.records import (
    Gate,
    JsonObject,
    NoiseFloor,
    RunRecord,
    Score,
    VariantRecord,
    VerdictName,
)

if TYPE_CHECKING:
    from evalkit.judging.budgets import BudgetTest

LEAST_IN_HALF_PRECISION = math.log1p(5e-4)
"""Nats per token: in 16 bits a single A/A pair can come out smaller by luck, the noise is there."""
_HALF = {"fp16", "bf16", "int8"}
_QUANTILE = 1.96
_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "lm-eval")

Floors = Mapping[str, Mapping[str, NoiseFloor]]
"""By variant, then by metric."""


def computed_in(path: Sequence[JsonObject], effective: Mapping[str, str]) -> tuple[str, ...]:
    """What the matrix products at a path's end are computed in: ('bf16',), ('bf16', 'fp32').

    Args:
        path: normalised steps as JSON.
        effective: what each dtype is really computed in on the device. `auto` stays "auto".
    """
    load, dtypes = "auto", {"auto"}
    for step in path:
        verb, argument = next(iter(step.items()))
        if verb in ("load", "dequantize"):
            load = effective.get(str(argument), str(argument))
            dtypes = {load}
        elif verb == "quantize":
            dtypes = {load, _quantized_compute(argument, load, effective)}
    return tuple(sorted(dtypes))


def _quantized_compute(argument: object, load: str, effective: Mapping[str, str]) -> str:
    fields = argument if isinstance(argument, Mapping) else {"type": argument}
    if fields.get("type") == "int8":
        return "int8"
    compute = fields.get("compute_dtype")
    return load if compute is None else effective.get(str(compute), str(compute))


# ----------------------------------------------------------------------------- measuring


def measured_floor(
    score: Score, again: Score, *, half: bool, variant: str, run: str, condition: JsonObject
) -> NoiseFloor:
    """The floor under one metric, from one A/A pair.

    max(|shift|, 1.96 · SE of the paired difference); for a perplexity in half precision never
    under 5e-4 of it.

    Args:
        score: of the variant, as every variant of the run is scored.
        again: of the same weights, in other batches.
        half: whether anything was computed in 16 bits or fewer.
        variant: its name.
        run: the run that measures.
        condition: what the floor holds for, for readers.
    """
    # scipy takes a while to import, and a report mostly draws what a run has stored.
    from evalkit.statistics.clusters import paired_ratio

    pair = paired_ratio(
        again.sums, again.counts, score.sums, score.counts, score.clusters,
        scale="difference", bootstrap=None,
    )  # fmt: skip
    least = LEAST_IN_HALF_PRECISION if half and score.kind == "perplexity" else 0.0
    floor = max(abs(pair.effect), _QUANTILE * (pair.stderr or 0.0), least)
    return NoiseFloor(
        metric=score.metric,
        floor=floor,
        shift=pair.effect,
        variant=variant,
        run=run,
        condition=condition,
    )


def own_floors(run: RunRecord) -> Floors:
    """What a run's own A/A repeats say, for every variant that is computed in the same dtypes."""
    measured: dict[tuple[str, ...], dict[str, NoiseFloor]] = {}
    for variant in run.variants:
        measured.setdefault(_dtypes(run, variant), {}).update(
            {floor.metric: floor for floor in _floors_of(run, variant)}
        )
    return {variant.name: measured[_dtypes(run, variant)] for variant in run.variants}


def floors_of(run: RunRecord) -> Floors:
    """The floors that a run's gates are judged with: those it found stored, and its own."""
    stored = {
        variant: {metric: NoiseFloor(**floor) for metric, floor in floors.items()}
        for variant, floors in run.provenance.get("noise_floors", {}).items()
    }
    own = own_floors(run)
    variants = {**stored, **own}
    return {name: {**stored.get(name, {}), **own.get(name, {})} for name in variants}


def floors_json(floors: Floors) -> JsonObject:
    """Floors as a run's provenance keeps them, so that it is judged again as it was."""
    return {
        variant: {metric: asdict(floor) for metric, floor in found.items()}
        for variant, found in floors.items()
        if found
    }


def _floors_of(run: RunRecord, variant: VariantRecord) -> Iterator[NoiseFloor]:
    dtypes = _dtypes(run, variant)
    precise = str(run.provenance.get("source_precision", "")).endswith("float32")
    half = bool(_HALF & set(dtypes)) or ("auto" in dtypes and not precise)
    for repeat in variant.repeats:
        if repeat.kind != "aa":
            continue
        condition = _condition(run, dtypes, repeat.label)
        for metric, again in repeat.scores.items():
            if metric in variant.scores:
                yield measured_floor(
                    variant.scores[metric],
                    again,
                    half=half,
                    variant=variant.name,
                    run=run.id,
                    condition=condition,
                )


def _dtypes(run: RunRecord, variant: VariantRecord) -> tuple[str, ...]:
    return computed_in(variant.path, run.provenance.get("effective_dtypes", {}))


def _condition(run: RunRecord, dtypes: Sequence[str], batches: str) -> JsonObject:
    told = run.provenance
    packages = told.get("packages", {})
    return {
        "device": told.get("device_name"),
        "threads": told.get("threads"),
        "dtypes": list(dtypes),
        "second": batches,
        "packages": {name: packages[name] for name in _PACKAGES if name in packages},
    }


# ----------------------------------------------------------------------------- judging


def floor_under(gate: Gate, floors: Floors) -> NoiseFloor | None:
    """The larger of the floors under a gate's two sides, None where none is known."""
    sides = (gate.variant, gate.against)
    known = [floors.get(side, {}).get(gate.metric) for side in sides if side is not None]
    return max(filter(None, known), key=lambda floor: floor.floor, default=None)


def floor_in_test(floor: NoiseFloor, gate: Gate, sides: tuple[Score, Score | None]) -> float:
    """A floor on the scale on which the gate is tested, from nats or the metric's unit.

    Args:
        floor: under the gate.
        gate: with its budget.
        sides: the gate's variant and what it is compared with.
    """
    budget, (score, reference) = gate.max_increase or gate.max_decrease, sides
    if budget is None or reference is None:
        return floor.floor
    if score.kind == "perplexity" and budget.unit == "absolute":
        return floor.floor * reference.value
    if score.kind != "perplexity" and budget.unit == "relative":
        return floor.floor / reference.value
    return floor.floor


def shown_floor(test: BudgetTest) -> float | None:
    """A test's floor on the scale of the verdict's effect: what it makes of no change at all.

    Under an absolute limit, what it moves at the value that was seen.
    """
    if test.noise_floor is None:
        return None
    at = 0.0 if test.gate.against is not None else test.comparison.effect
    return test.show(at + test.noise_floor) - test.show(at)


def drowns(test: BudgetTest, name: VerdictName) -> bool:
    """Whether a verdict says more than the machine can tell.

    With a budget under the floor nothing passes but what is bit-identical; a loss, or an
    improvement, stands where it is further from the budget than the floor.
    """
    floor = test.noise_floor
    if floor is None or test.gate.against is None or test.comparison.exact:
        return False
    if abs(test.limit) >= floor:
        return False
    seen = name in ("IMPROVED", "REGRESSED") and abs(test.past(test.comparison.effect)) > floor
    return name != "INCONCLUSIVE" and not seen


def refusal(gate: Gate, floor: NoiseFloor) -> str | None:
    """Why a gate cannot be judged on this machine, None where it can or where a run must tell.

    A budget of nothing asks for an improvement, and a gate with `expect` for a loss: both are told
    from noise by their effect, which only a run has. So is an absolute budget on a perplexity.
    """
    budget = gate.max_increase or gate.max_decrease
    if budget is None or budget.amount == 0 or gate.expect is not None:
        return None
    perplexity = _is_perplexity(gate)
    if perplexity != (budget.unit == "relative"):
        return None  # told in a unit that only the reference's value converts
    limit = math.log1p(budget.amount) if perplexity else budget.amount
    return tight_words(gate, floor) if abs(limit) < floor.floor else None


def tight_words(gate: Gate, floor: NoiseFloor) -> str:
    """'budget 0.01 % is tighter than this machine's noise floor, 0.05 % (...): widen it, ...'."""
    at_least = floor.floor <= LEAST_IN_HALF_PRECISION and _is_perplexity(gate)
    way_out = "compute in fp32" if at_least else "score more documents"
    budget = gate.max_increase or gate.max_decrease
    told = _told(floor)
    return f"budget {budget} is tighter than {told}: widen it, or {way_out}"


def drowned_words(gate: Gate, floor: NoiseFloor) -> str:
    """Why a verdict is INCONCLUSIVE for the machine's noise."""
    budget = gate.max_increase or gate.max_decrease
    if budget is None or budget.amount == 0:
        return f"the change is within {_told(floor)}"
    return tight_words(gate, floor)


def _told(floor: NoiseFloor) -> str:
    return f"this machine's noise floor, {floor_words(floor)} (measured in run {floor.run})"


def floor_words(floor: NoiseFloor) -> str:
    """'0.05 %' of a perplexity; '0.2 pp' of a mean."""
    perplexity = floor.metric.partition("/")[0] == "perplexity"
    percent = 100 * (math.expm1(floor.floor) if perplexity else floor.floor)
    unit = "%" if perplexity else "pp"
    return f"{percent:.2g} {unit}" if percent >= 1e-4 else f"less than 0.0001 {unit}"


def _is_perplexity(gate: Gate) -> bool:
    return gate.metric.partition("/")[0] == "perplexity"
