"""What a baseline's file may hold, strictly, and the record that it makes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from evalkit.baselines.promoting import check_baseline_name
from evalkit.records import Baseline, Budget, Float64s, Gate, MetricKind, Score

_LONGEST_RUN = 32
"""Characters: as many as the store's column takes."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _BudgetJson(_Strict):
    amount: float
    unit: Literal["relative", "points", "absolute"]


class _GateJson(_Strict):
    metric: str
    variant: str
    against: str | None = None
    max_increase: _BudgetJson | None = None
    max_decrease: _BudgetJson | None = None
    minimum: float | None = None
    maximum: float | None = None
    expect: Literal["regressed"] | None = None
    inconclusive: Literal["fail", "warn"] = "fail"


class _ScoreJson(_Strict):
    kind: MetricKind
    value: float
    stderr: float | None
    unit: str
    higher_is_better: bool
    comparison: dict[str, str]
    extra: dict[str, float]
    units: str
    sums: list[float]
    answers: str = Field(default="", max_length=64)


class BaselineFile(_Strict):
    """The whole file."""

    schema_: int = Field(alias="schema")
    suite: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}$")
    baseline: str
    run: str = Field(pattern=rf"^[A-Za-z0-9-]{{1,{_LONGEST_RUN}}}$")
    promoted: str = Field(pattern=r"^[0-9T:.+Z-]{1,40}$")
    forced: bool
    gates: list[_GateJson]
    provenance: dict[str, Any]
    scores: dict[str, dict[str, _ScoreJson]]
    units: dict[str, list[list[str | int | float]]]

    def baseline_record(self) -> Baseline:
        """The record that was written.

        Raises:
            ValueError: the parts do not fit together.
            UsageError: the baseline's name is none.
        """
        return Baseline(
            name=check_baseline_name(self.baseline),
            suite=self.suite,
            run=self.run,
            promoted=self.promoted,
            forced=self.forced,
            gates=tuple(_gate(gate) for gate in self.gates),
            provenance=self.provenance,
            scores={
                variant: {
                    metric: _score(f"scores.{variant}.{metric}", metric, score, self.units)
                    for metric, score in metrics.items()
                }
                for variant, metrics in self.scores.items()
            },
        )


def _gate(gate: _GateJson) -> Gate:
    fields = gate.model_dump()
    for side in ("max_increase", "max_decrease"):
        fields[side] = None if fields[side] is None else Budget(**fields[side])
    return Gate(**fields)


def _score(
    where: str, metric: str, score: _ScoreJson, units: Mapping[str, list[list[Any]]]
) -> Score:
    if score.units not in units:
        raise ValueError(f"{where}.units: there are no units {score.units!r}")
    ids, counts, clusters = _columns(f"units.{score.units}", units[score.units])
    if len(score.sums) != len(ids):
        raise ValueError(f"{where}.sums: {len(score.sums)} values for {len(ids)} units")
    return Score(
        metric=metric,
        kind=score.kind,
        value=score.value,
        stderr=score.stderr,
        unit=score.unit,
        higher_is_better=score.higher_is_better,
        unit_ids=ids,
        clusters=clusters,
        sums=np.array(score.sums, dtype=np.float64),
        counts=counts,
        extra=score.extra,
        comparison=score.comparison,
        answers=score.answers,
    )


def _columns(
    where: str, rows: Iterable[list[Any]]
) -> tuple[tuple[str, ...], Float64s, tuple[str, ...]]:
    """Ids, counts and clusters of units, from rows of [id, count] or [id, count, cluster]."""
    ids, counts, clusters = [], [], []
    for index, row in enumerate(rows):
        kinds = [type(value) for value in row]
        if kinds[:1] != [str] or kinds[1:2] not in ([int], [float]) or kinds[2:] not in ([], [str]):
            raise ValueError(f"{where}.{index}: must be [id, count] or [id, count, cluster]")
        if not (math.isfinite(row[1]) and row[1] >= 0):
            raise ValueError(f"{where}.{index}: {row[1]} is no count")
        ids.append(row[0])
        counts.append(float(row[1]))
        clusters.append(row[2] if len(row) == 3 else row[0])
    return tuple(ids), np.array(counts, dtype=np.float64), tuple(clusters)
