"""Gates, verdicts, and what gates are judged with beside a run's own scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from evalkit.records.scores import Score

JsonObject = dict[str, Any]
VerdictName = Literal[
    "PASS", "IMPROVED", "REGRESSED", "INCONCLUSIVE", "INCOMPARABLE", "MISSING", "ERRORED"
]
BudgetUnit = Literal["relative", "points", "absolute"]
BASELINE = "baseline"
"""What `Gate.against` says for the same variant of the promoted baseline."""
SURVIVAL = "survival"
"""The metric that says how much of the merged adapters is in a variant's weights."""
DIVERGENCE = "divergence"
"""The metric that says how far a variant's predictions are from a reference variant's."""


@dataclass(frozen=True)
class Budget:
    """How much worse a metric may get, or an absolute limit.

    `amount` is a fraction of the reference for "relative" (0.01 = 1 %), a fraction of one for
    "points" (0.01 = 1 percentage point), the metric's own unit for "absolute".
    """

    amount: float
    unit: BudgetUnit

    def __str__(self) -> str:
        if self.unit == "relative":
            return f"{self.amount * 100:g} %"
        if self.unit == "points":
            return f"{self.amount * 100:g} pp"
        return f"{self.amount:g}"


@dataclass(frozen=True)
class Gate:
    """One promise about one metric of one variant.

    Either a difference (`against` with `max_increase` or `max_decrease`) or an absolute limit
    (`minimum` or `maximum`, no `against`).
    """

    metric: str
    variant: str
    against: str | None = None
    max_increase: Budget | None = None
    max_decrease: Budget | None = None
    minimum: float | None = None
    maximum: float | None = None
    expect: Literal["regressed"] | None = None
    inconclusive: Literal["fail", "warn"] = "fail"
    place: str = ""
    """'suites/quickstart.yaml:41', for annotations."""


@dataclass(frozen=True)
class Verdict:
    """What a gate came to.

    `effect`, `low`, `high` are fractions of the reference (0.06 = +6 %) for relative budgets, in
    the metric's unit otherwise; the interval is the unadjusted two-sided 95 % one.
    """

    gate: Gate
    verdict: VerdictName
    ok: bool
    warned: bool = False
    """Not a failure, and not to be overlooked: INCONCLUSIVE that the gate lets pass."""
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    p_adjusted: float | None = None
    n_units: int | None = None
    n_clusters: int | None = None
    effective_clusters: float | None = None
    bootstrap_low: float | None = None
    """The cluster bootstrap's 95 % interval, on the scale of `low` and `high`: a cross-check."""
    bootstrap_high: float | None = None
    gained: int | None = None
    """Samples that the reference had wrong and the variant has right; for hit-or-miss metrics."""
    lost: int | None = None
    mcnemar_p: float | None = None
    """Exact, two-sided, on `gained` and `lost`. Reported; it decides nothing."""
    noise_floor: float | None = None
    """What scoring the same weights twice may move here, on the scale of `effect`."""
    training_spread: float | None = None
    """Standard deviation of the effect between training seeds, on the scale of `effect`; it is
    part of the interval. None: the interval covers documents, not training."""
    n_seeds: int | None = None
    """Seeds behind `training_spread`."""
    message: str = ""
    """One sentence: why, and what would settle it or put it right."""


@dataclass(frozen=True)
class NoiseFloor:
    """What scoring the same weights twice moves on this machine."""

    metric: str
    floor: float
    """Nats per token for a perplexity, the metric's unit else: no smaller change is a change."""
    shift: float
    """The difference that was seen, signed, in the same unit."""
    variant: str
    """What was scored twice."""
    run: str
    """The run that measured it."""
    condition: JsonObject
    """What it holds for: device, dtype, threads, package versions."""


@dataclass(frozen=True)
class Baseline:
    """The run that later runs are compared with: its scores with their units, and its gates."""

    name: str
    """'main'."""
    suite: str
    run: str
    """The run's id, which another store may not hold."""
    promoted: str
    """ISO 8601, UTC."""
    forced: bool
    """Promoted though a gate had failed."""
    gates: tuple[Gate, ...]
    provenance: JsonObject
    scores: Mapping[str, Mapping[str, Score]]
    """By variant, then by metric."""
