"""The machine's noise: floors from A/A pairs, and the gates that they rule out."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from evalkit.judging.gates import Evidence, judge
from evalkit.judging.noise import (
    LEAST_IN_HALF_PRECISION,
    computed_in,
    floors_json,
    floors_of,
    measured_floor,
    own_floors,
    refusal,
)
from evalkit.records import Budget, Gate, NoiseFloor, Repeat, RunRecord, Score, VariantRecord

EFFECTIVE = {"fp32": "fp32", "bf16": "bf16", "fp16": "bf16"}
LABEL = "batches of 1,024 tokens, longest last"


def perplexity(shift: float = 0.0, noise: float = 0.0, units: int = 60, seed: int = 1) -> Score:
    """The same documents each time, moved by `shift` nats per token, apart from noise."""
    generator = np.random.default_rng(0)
    counts = generator.integers(80, 120, units).astype(np.float64)
    sums = counts * generator.normal(2.5, 0.4, units) + shift * counts
    sums = sums + counts * noise * np.random.default_rng(seed).normal(size=units)
    ids = tuple(f"doc{i}" for i in range(units))
    value = math.exp(sums.sum() / counts.sum())
    common = {"unit": "ppl/token", "higher_is_better": False, "unit_ids": ids, "clusters": ids}
    return Score("perplexity", "perplexity", value, None, sums=sums, counts=counts, **common)  # type: ignore[arg-type]


def floor(size: float, metric: str = "perplexity", run: str = "r1") -> NoiseFloor:
    return NoiseFloor(metric, size, size / 2, "nf4", run, {})


def gate(amount: float, unit: str = "relative", **changes: object) -> Gate:
    budget = Budget(amount, unit)  # type: ignore[arg-type]
    return replace(Gate("perplexity", "nf4", "fp16", max_increase=budget), **changes)  # type: ignore[arg-type]


def verdict(the_gate: Gate, score: Score, size: float) -> object:
    floors = {"nf4": {"perplexity": floor(size)}}
    scores = {"nf4": {"perplexity": score}, "fp16": {"perplexity": perplexity()}}
    (result,) = judge([the_gate], Evidence(scores, floors=floors))
    return result


# ----------------------------------------------------------------------------- dtypes


@pytest.mark.parametrize(
    ("path", "dtypes"),
    [
        ([{"load": "fp16"}], ("bf16",)),
        ([{"load": "fp32"}], ("fp32",)),
        ([{"load": "auto"}], ("auto",)),
        ([{"load": "fp16"}, {"quantize": "nf4"}, {"attach": "a"}], ("bf16",)),
        ([{"load": "fp32"}, {"quantize": "int8"}], ("fp32", "int8")),
        (
            [{"load": "fp32"}, {"quantize": {"type": "nf4", "compute_dtype": "bf16"}}],
            ("bf16", "fp32"),
        ),
        ([{"load": "fp16"}, {"quantize": "nf4"}, {"dequantize": "fp32"}], ("fp32",)),
    ],
)
def test_what_a_path_is_computed_in(path: list[dict[str, object]], dtypes: tuple[str, ...]) -> None:
    assert computed_in(path, EFFECTIVE) == dtypes


# ----------------------------------------------------------------------------- measuring


def measured(score: Score, again: Score, *, half: bool) -> NoiseFloor:
    return measured_floor(score, again, half=half, variant="nf4", run="r", condition={"a": 1})


def test_a_floor_is_the_shift_or_what_the_pair_scatters_by() -> None:
    base = perplexity()
    shifted = measured(base, perplexity(shift=0.003), half=False)
    assert shifted.shift == pytest.approx(0.003, rel=1e-9)
    assert shifted.floor == pytest.approx(0.003, rel=1e-6)
    again = perplexity(noise=0.01)
    scattered = measured(base, again, half=False)
    moved = again.sums - base.sums
    residual = moved - moved.sum() / base.counts.sum() * base.counts
    stderr = math.sqrt(60 / 59 * (residual**2).sum()) / base.counts.sum()
    assert scattered.floor == pytest.approx(max(1.96 * stderr, abs(scattered.shift)), rel=0.05)
    assert scattered.condition == {"a": 1}


def test_half_precision_has_a_least_floor_and_float32_has_none() -> None:
    base = perplexity()
    assert measured(base, base, half=True).floor == LEAST_IN_HALF_PRECISION
    assert math.expm1(LEAST_IN_HALF_PRECISION) == pytest.approx(5e-4)
    assert measured(base, base, half=False).floor == 0.0
    assert measured(base, perplexity(shift=0.01), half=True).floor == pytest.approx(0.01)


def test_a_mean_has_no_least_floor() -> None:
    hits = replace(perplexity(), kind="mean", metric="task/acc", value=0.5)
    assert measured(hits, hits, half=True).floor == 0.0


def run_with(repeats: dict[str, tuple[Repeat, ...]], **provenance: object) -> RunRecord:
    loads = {"fp16": "fp16", "nf4": "fp16", "precise": "fp32"}
    variants = tuple(
        VariantRecord(
            name, ({"load": load},), None, "", None, {"perplexity": perplexity()},
            repeats=repeats.get(name, ()),
        )
        for name, load in loads.items()
    )  # fmt: skip
    told = {"effective_dtypes": EFFECTIVE, "device_name": "cpu", "threads": 2, **provenance}
    return RunRecord(
        "r9", "s", "", None, None, "", {}, {}, told, variants, adapters=(), verdicts=()
    )


def test_a_runs_own_pair_holds_for_what_is_computed_alike() -> None:
    again = Repeat("aa", LABEL, {"perplexity": perplexity(shift=0.002)})
    floors = own_floors(run_with({"nf4": (again,)}))
    assert floors["fp16"]["perplexity"] == floors["nf4"]["perplexity"]
    found = floors["nf4"]["perplexity"]
    assert (found.variant, found.run, found.floor) == ("nf4", "r9", pytest.approx(0.002))
    assert found.condition["second"] == LABEL
    assert found.condition["dtypes"] == ["bf16"]
    assert floors["precise"] == {}


def test_repeats_of_training_are_no_floor() -> None:
    seed = Repeat("seed", "seed 1", {"perplexity": perplexity(shift=0.1)})
    assert own_floors(run_with({"nf4": (seed,)}))["nf4"] == {}


def test_stored_floors_come_from_the_provenance_and_a_new_one_takes_their_place() -> None:
    stored = {"nf4": {"perplexity": floor(0.004)}, "precise": {"perplexity": floor(1e-6)}}
    again = Repeat("aa", LABEL, {"perplexity": perplexity(shift=0.002)})
    kept = floors_json(stored)
    assert floors_of(run_with({}, noise_floors=kept))["nf4"] == stored["nf4"]
    floors = floors_of(run_with({"nf4": (again,)}, noise_floors=kept))
    assert floors["nf4"]["perplexity"].run == "r9"
    assert floors["precise"] == stored["precise"]


def test_auto_is_half_precision_unless_the_weights_are_float32() -> None:
    def least(precision: str) -> float:
        run = run_with(
            {"nf4": (Repeat("aa", LABEL, {"perplexity": perplexity()}),)},
            source_precision=precision,
        )
        auto = tuple(replace(variant, path=({"load": "auto"},)) for variant in run.variants)
        return own_floors(replace(run, variants=auto))["nf4"]["perplexity"].floor

    assert least("safetensors float32") == 0.0
    assert least("safetensors bfloat16") == LEAST_IN_HALF_PRECISION
    assert least("dequantised from GGUF Q4_1") == LEAST_IN_HALF_PRECISION


# ----------------------------------------------------------------------------- judging


def test_a_budget_under_the_floor_passes_nothing_but_what_is_identical() -> None:
    changed = perplexity(shift=-1e-5, noise=1e-7)
    free = verdict(gate(0.0001), changed, 1e-6)
    assert free.verdict == "IMPROVED"
    drowned = verdict(gate(0.0001), changed, 5e-4)
    assert (drowned.verdict, drowned.ok) == ("INCONCLUSIVE", False)
    told = "budget 0.01 % is tighter than this machine's noise floor, 0.05 % (measured in run r1)"
    assert told in drowned.message
    assert drowned.noise_floor == pytest.approx(5e-4, rel=1e-3)
    identical = verdict(gate(0.0001), perplexity(), 5e-4)
    assert (identical.verdict, identical.ok) == ("PASS", True)


def test_a_loss_past_the_floor_stands_and_one_within_it_does_not() -> None:
    assert verdict(gate(0.0001), perplexity(shift=0.02, noise=1e-5), 5e-4).verdict == "REGRESSED"
    within = verdict(gate(0.0001), perplexity(shift=4e-4, noise=1e-6), 5e-4)
    assert within.verdict == "INCONCLUSIVE"
    assert verdict(gate(0.0001), perplexity(shift=4e-4, noise=1e-6), 1e-6).verdict == "REGRESSED"


def test_an_improvement_that_is_asked_for_must_be_larger_than_the_floor() -> None:
    asked = gate(0.0)
    assert verdict(asked, perplexity(shift=-0.01, noise=1e-5), 5e-4).verdict == "IMPROVED"
    within = verdict(asked, perplexity(shift=-2e-4, noise=1e-6), 5e-4)
    assert within.verdict == "INCONCLUSIVE"
    assert "the change is within this machine's noise floor, 0.05 %" in within.message


def test_a_budget_over_the_floor_is_judged_as_ever() -> None:
    result = verdict(gate(0.01), perplexity(shift=0.001, noise=1e-5), 5e-4)
    assert result.verdict == "PASS"
    assert result.noise_floor == pytest.approx(5e-4, rel=1e-3)


def test_the_larger_floor_of_the_two_sides_counts() -> None:
    floors = {
        "nf4": {"perplexity": floor(1e-6)},
        "fp16": {"perplexity": floor(5e-4, run="r2")},
    }
    scores = {
        "nf4": {"perplexity": perplexity(shift=-1e-5, noise=1e-7)},
        "fp16": {"perplexity": perplexity()},
    }
    (result,) = judge([gate(0.0001)], Evidence(scores, floors=floors))
    assert result.verdict == "INCONCLUSIVE"
    assert "run r2" in result.message


def test_floors_are_told_in_the_unit_of_the_gate() -> None:
    reference = perplexity()
    absolute = verdict(gate(1.0, "absolute"), perplexity(shift=0.01, noise=1e-4), 5e-4)
    assert absolute.noise_floor == pytest.approx(5e-4 * reference.value)
    limit = verdict(gate(0, max_increase=None, against=None, maximum=100.0), perplexity(), 5e-4)
    assert limit.noise_floor == pytest.approx(reference.value * math.expm1(5e-4))
    none = verdict(gate(0.01), perplexity(), 0.0)
    assert none.noise_floor == 0.0


@pytest.mark.parametrize(
    ("the_gate", "size", "refused"),
    [
        (gate(0.0001), 5e-4, True),
        (gate(-0.0001), 5e-4, True),
        (gate(0.01), 5e-4, False),
        (gate(0.0), 5e-4, False),
        (gate(0.0001, expect="regressed"), 5e-4, False),
        (gate(0.0001, "absolute"), 5e-4, False),
        (gate(0, max_increase=None, against=None, maximum=9.0), 5e-4, False),
        (gate(0.0001), 1e-8, False),
        (gate(0.001, "points", metric="t/acc"), 0.002, True),
        (gate(0.001, "absolute", metric="t/acc"), 0.002, True),
        (gate(0.003, "points", metric="t/acc"), 0.002, False),
    ],
)
def test_which_gates_are_refused_before_anything_runs(
    the_gate: Gate, size: float, refused: bool
) -> None:
    reason = refusal(the_gate, floor(size, the_gate.metric))
    assert (reason is not None) == refused
    if reason is not None:
        assert "is tighter than this machine's noise floor" in reason


def test_a_floor_that_more_documents_cannot_lower_names_another_way_out() -> None:
    assert "compute in fp32" in str(refusal(gate(1e-5), floor(LEAST_IN_HALF_PRECISION)))
    assert "score more documents" in str(refusal(gate(1e-5), floor(0.002)))
