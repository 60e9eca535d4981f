"""Repeats of a run's variants, noise floors, and what was trained by one recipe but for its seed.

Every function works within the caller's transaction.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import cast

import sqlalchemy as sa
from sqlalchemy.orm import Session

from evalkit.errors import StoreError
from evalkit.records import JobRecord, NoiseFloor, Repeat, RepeatKind, Score
from evalkit.store import tables
from evalkit.store.results import RepeatResult, StoredDraw
from evalkit.store.writing import write_job, write_score

FAMILY = "recipe_but_for_seed"
"""The fact of a training job that is equal for trainings that differ in their seed alone."""
SEED = "seed"
"""The fact of a training job that holds its seed."""


def write_repeat(session: Session, run_id: str, result: RepeatResult) -> None:
    """Writes a repeat with its job and scores, over the earlier attempt of the same label.

    What keeps a repeat from being there is noted on the variant's own job, where readers see it.

    Raises:
        StoreError: the run has no such variant.
    """
    write_job(session, run_id, result.job)
    variant = session.scalar(
        sa.select(tables.Variant).filter_by(run_id=run_id, name=result.variant)
    )
    if variant is None:
        raise StoreError(f"run {run_id} has no variant {result.variant} to repeat")
    if result.job.error is not None:
        _note(session, variant, f"{result.label} is missing: {result.job.error}")
    rows = sa.delete(tables.RepeatRow).filter_by(variant_id=variant.id, label=result.label)
    session.execute(rows)
    known = {
        metric: write_score(session, run_id, key, metric, score)
        for metric, (key, score) in result.scores.items()
    }
    last = sa.select(sa.func.max(tables.RepeatRow.position)).filter_by(variant_id=variant.id)
    position = session.scalar(last)
    session.add_all(
        tables.RepeatRow(
            variant_id=variant.id,
            label=result.label,
            metric=metric,
            position=0 if position is None else position + 1,
            kind=result.kind,
            score_id=score_id,
        )
        for metric, score_id in {**known, **result.reused}.items()
    )


def _note(session: Session, variant: tables.Variant, note: str) -> None:
    job = None if variant.job_id is None else session.get(tables.Job, variant.job_id)
    if job is not None:
        job.facts = {**job.facts, "notes": [*job.facts.get("notes", ()), note]}


def repeat_rows(session: Session, variant_ids: Iterable[int]) -> dict[int, list[tables.RepeatRow]]:
    """The rows of these variants' repeats, in the order in which they were measured."""
    query = sa.select(tables.RepeatRow).where(tables.RepeatRow.variant_id.in_(list(variant_ids)))
    rows: dict[int, list[tables.RepeatRow]] = defaultdict(list)
    # Sorted here: every server has its own order of letters.
    for row in sorted(session.scalars(query), key=lambda row: (row.position, row.metric)):
        rows[row.variant_id].append(row)
    return rows


def repeats_of(rows: Iterable[tables.RepeatRow], scores: Mapping[int, Score]) -> tuple[Repeat, ...]:
    """One variant's repeats; `scores` by their ids."""
    grouped: dict[tuple[str, str], dict[str, Score]] = defaultdict(dict)
    for row in rows:
        grouped[row.kind, row.label][row.metric] = scores[row.score_id]
    return tuple(
        Repeat(cast("RepeatKind", kind), label, found) for (kind, label), found in grouped.items()
    )


def write_noise_floor(session: Session, key: str, floor: NoiseFloor) -> None:
    """Writes a floor; the newest of a key counts."""
    session.add(
        tables.NoiseFloorRow(
            key=key,
            metric=floor.metric,
            floor=floor.floor,
            shift=floor.shift,
            variant=floor.variant,
            run=floor.run,
            condition=dict(floor.condition),
        )
    )


def find_noise_floor(session: Session, key: str) -> NoiseFloor | None:
    """The newest floor that was measured under this key, or None."""
    query = sa.select(tables.NoiseFloorRow).filter_by(key=key)
    row = session.scalar(query.order_by(tables.NoiseFloorRow.id.desc()).limit(1))
    if row is None:
        return None
    return NoiseFloor(
        metric=row.metric,
        floor=row.floor,
        shift=row.shift,
        variant=row.variant,
        run=row.run,
        condition=row.condition,
    )


def write_training(
    session: Session, run_id: str, job: JobRecord, reuse_key: str, content_digest: str | None
) -> None:
    """Writes a training job, to be found by its recipe and, if it left an adapter, by its family.

    A cached adapter may have been trained by a run of another store: one that was reused counts.
    """
    row = write_job(session, run_id, job)
    row.reuse_key = reuse_key
    row.content_digest = content_digest
    note_family(row)


def note_family(row: tables.Job) -> None:
    """Fills a job's columns `family` and `seed` from its facts, or empties them."""
    is_there = row.content_digest is not None and row.status in ("done", "reused")
    row.family = row.facts.get(FAMILY) if is_there else None
    row.seed = row.facts.get(SEED) if is_there else None


def find_draws(session: Session, family: str) -> tuple[StoredDraw, ...]:
    """What was trained by a recipe with any seed: the newest training of each, by the seed."""
    job = tables.Job
    newest = sa.select(sa.func.max(job.id)).filter_by(family=family).group_by(job.seed)
    query = sa.select(job).where(job.id.in_(newest)).order_by(job.seed)
    return tuple(
        StoredDraw(row.run_id, row.seed, row.content_digest)
        for row in session.scalars(query)
        if row.seed is not None and row.content_digest is not None
    )
