"""The tables, as SQLAlchemy models: the only description of the schema beside its migrations.

Those of what hangs on a score are in `score_tables`, and are names of this module too.

    runs ─┬─ jobs                 one row a training or scoring job
          ├─ variants ─┬─ variant_scores ── scores ─┬─ unit_sets
          │            ├─ repeats ────────── scores ├─ token_losses
          │            └─ sample_sets               ├─ task_outcomes
          │                                         ├─ task_texts ── task_text_sets
          │                                         └─ survival_modules
          └─ verdicts
    baselines ─── baseline_scores ─── scores
    noise_floors

A score belongs to no run: it is found by its `reuse_key`, and `variant_scores` says which variants
of which runs show it. Deleting a run deletes what hangs on it and leaves scores that others use. A
baseline points to scores, not to its run, which may have run elsewhere.
Per-unit values are little-endian float64, token losses float32 (nats), one blob a score. What many
scores share (units, clusters, counts) is one row of `unit_sets`, keyed by its content; so are the
texts of a task's samples.

Later measures are new tables or new rows, never changed ones: measures of single modules hang on
their score, so that they are reused with it; a measure of an edge hangs on the variant at its end,
since `variants.parent` names the other. `metric`, `kind` and `status` are plain text without a
constraint, so that a new metric needs no migration.
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from evalkit.store.base import Base as Base
from evalkit.store.score_tables import SurvivalModules as SurvivalModules
from evalkit.store.score_tables import TaskOutcomes as TaskOutcomes
from evalkit.store.score_tables import TaskTexts as TaskTexts
from evalkit.store.score_tables import TaskTextSet as TaskTextSet
from evalkit.store.score_tables import TokenLossRow as TokenLossRow

REVISIONS: Final = ("0001", "0002", "0003", "0004", "0005")
"""Every revision of the schema, oldest first. The last one is what this code reads and writes."""

VERSION_TABLE: Final = "evalkit_schema"


class Run(Base):
    """One `evalkit run` of one suite."""

    __tablename__ = "runs"

    id: Mapped[str] = mapped_column(sa.String(32), primary_key=True)
    suite: Mapped[str]
    place: Mapped[str]
    """The suite's path as the user gave it."""
    started: Mapped[str] = mapped_column(sa.String(40), index=True)
    """ISO 8601 in UTC: sorts as time does."""
    seconds: Mapped[float | None]
    exit_code: Mapped[int | None]
    suite_text: Mapped[str] = mapped_column(sa.Text)
    suite_json: Mapped[dict[str, Any]]
    arguments: Mapped[dict[str, Any]]
    provenance: Mapped[dict[str, Any]]
    gates: Mapped[list[Any]]


class Job(Base):
    """What became of one job of a run."""

    __tablename__ = "jobs"
    __table_args__ = (
        sa.UniqueConstraint("run_id", "name"),
        sa.Index("ix_jobs_reuse_key_status", "reuse_key", "status"),
        sa.Index("ix_jobs_family_seed", "family", "seed"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(sa.ForeignKey("runs.id", ondelete="CASCADE"))
    name: Mapped[str]
    kind: Mapped[str] = mapped_column(sa.String(16))
    status: Mapped[str] = mapped_column(sa.String(16))
    seconds: Mapped[float]
    error: Mapped[str | None] = mapped_column(sa.Text)
    facts: Mapped[dict[str, Any]]
    reused_from: Mapped[str | None] = mapped_column(sa.String(32))
    """A run's id, kept when that run is deleted."""
    reuse_key: Mapped[str | None] = mapped_column(sa.String(64))
    """Of a training job: its recipe's key."""
    content_digest: Mapped[str | None] = mapped_column(sa.String(64))
    """Of a training job: what it wrote."""
    family: Mapped[str | None] = mapped_column(sa.String(64))
    """Of a training that left an adapter: its recipe's key but for the seed."""
    seed: Mapped[int | None] = mapped_column(sa.BigInteger)
    """Null with it."""


class SampleSet(Base):
    """The texts that one variant generated."""

    __tablename__ = "sample_sets"

    id: Mapped[int] = mapped_column(primary_key=True)
    reuse_key: Mapped[str] = mapped_column(sa.String(64), index=True)
    computed_in: Mapped[str] = mapped_column(sa.String(32))
    samples: Mapped[list[Any]]


class Variant(Base):
    """One variant of a run; `job_id` is null until its job has ended."""

    __tablename__ = "variants"
    __table_args__ = (sa.UniqueConstraint("run_id", "name"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(sa.ForeignKey("runs.id", ondelete="CASCADE"))
    position: Mapped[int]
    """Place in the suite."""
    name: Mapped[str]
    path: Mapped[list[Any]]
    parent: Mapped[str | None]
    edge: Mapped[str] = mapped_column(sa.Text)
    job_id: Mapped[int | None] = mapped_column(
        sa.ForeignKey("jobs.id", ondelete="SET NULL"), index=True
    )
    sample_set_id: Mapped[int | None] = mapped_column(
        sa.ForeignKey("sample_sets.id", ondelete="RESTRICT"), index=True
    )


class UnitSet(Base):
    """The units that scores are paired by: which they are, how they cluster, what they weigh."""

    __tablename__ = "unit_sets"

    digest: Mapped[str] = mapped_column(sa.String(64), primary_key=True)
    ids: Mapped[list[Any]]
    clusters: Mapped[list[Any] | None] = mapped_column(sa.JSON(none_as_null=True))
    """Null: every unit is its own cluster."""
    counts: Mapped[bytes]


class ScoreRow(Base):
    """One metric of one computation; never changed once written."""

    __tablename__ = "scores"

    id: Mapped[int] = mapped_column(primary_key=True)
    reuse_key: Mapped[str] = mapped_column(sa.String(64), index=True)
    computed_in: Mapped[str] = mapped_column(sa.String(32))
    """A run's id, kept when that run is deleted; so are the others below."""
    metric: Mapped[str]
    kind: Mapped[str] = mapped_column(sa.String(16))
    value: Mapped[float]
    stderr: Mapped[float | None]
    unit: Mapped[str]
    higher_is_better: Mapped[bool]
    units: Mapped[str] = mapped_column(
        sa.ForeignKey("unit_sets.digest", ondelete="RESTRICT"), index=True
    )
    sums: Mapped[bytes]
    extra: Mapped[dict[str, Any]]
    comparison: Mapped[dict[str, Any]]


class VariantScore(Base):
    """Which score a variant of a run shows for a metric, computed in that run or before."""

    __tablename__ = "variant_scores"

    variant_id: Mapped[int] = mapped_column(
        sa.ForeignKey("variants.id", ondelete="CASCADE"), primary_key=True
    )
    metric: Mapped[str] = mapped_column(primary_key=True)
    score_id: Mapped[int] = mapped_column(
        sa.ForeignKey("scores.id", ondelete="RESTRICT"), index=True
    )


class VerdictRow(Base):
    """What a gate came to in a run."""

    __tablename__ = "verdicts"

    id: Mapped[int] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(sa.ForeignKey("runs.id", ondelete="CASCADE"), index=True)
    position: Mapped[int]
    verdict: Mapped[str] = mapped_column(sa.String(16))
    ok: Mapped[bool]
    gate: Mapped[dict[str, Any]]
    details: Mapped[dict[str, Any]]
    """The verdict's other fields, by their names."""


class RepeatRow(Base):
    """A variant of a run measured once more: scored in other batches, trained with another seed."""

    __tablename__ = "repeats"

    variant_id: Mapped[int] = mapped_column(
        sa.ForeignKey("variants.id", ondelete="CASCADE"), primary_key=True
    )
    label: Mapped[str] = mapped_column(primary_key=True)
    metric: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int]
    kind: Mapped[str] = mapped_column(sa.String(16))
    score_id: Mapped[int] = mapped_column(
        sa.ForeignKey("scores.id", ondelete="RESTRICT"), index=True
    )


class NoiseFloorRow(Base):
    """What scoring the same weights twice moved, found by what it holds for."""

    __tablename__ = "noise_floors"

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(sa.String(64), index=True)
    """Digest of metric, data, protocol and `condition`; the newest row of a key counts."""
    metric: Mapped[str]
    floor: Mapped[float]
    shift: Mapped[float]
    variant: Mapped[str]
    run: Mapped[str] = mapped_column(sa.String(32))
    condition: Mapped[dict[str, Any]]


class BaselineRow(Base):
    """A promoted run. Rows are never changed: the newest of a suite and a name is the baseline."""

    __tablename__ = "baselines"

    id: Mapped[int] = mapped_column(primary_key=True)
    suite: Mapped[str] = mapped_column(index=True)
    name: Mapped[str]
    run: Mapped[str] = mapped_column(sa.String(32))
    """Perhaps from another store."""
    promoted: Mapped[str] = mapped_column(sa.String(40))
    forced: Mapped[bool]
    gates: Mapped[list[Any]]
    provenance: Mapped[dict[str, Any]]


class BaselineScore(Base):
    """Which score a baseline holds for a metric of a variant."""

    __tablename__ = "baseline_scores"

    baseline_id: Mapped[int] = mapped_column(
        sa.ForeignKey("baselines.id", ondelete="CASCADE"), primary_key=True
    )
    variant: Mapped[str] = mapped_column(primary_key=True)
    metric: Mapped[str] = mapped_column(primary_key=True)
    score_id: Mapped[int] = mapped_column(
        sa.ForeignKey("scores.id", ondelete="RESTRICT"), index=True
    )
    answers: Mapped[str | None] = mapped_column(sa.String(64))
    """Digest of a task's outcomes, which an imported score comes without."""
