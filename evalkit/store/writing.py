"""Records to rows. Every function writes within the caller's transaction."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from evalkit.errors import StoreError
from evalkit.records import JobRecord, Sample, Score, VariantRecord, Verdict
from evalkit.store import tables
from evalkit.store.blobs import (
    gate_json,
    pack_float64,
    sample_json,
    storable_text,
    units_digest,
    verdict_details,
)
from evalkit.store.modules import write_modules
from evalkit.store.outcomes import write_outcomes
from evalkit.store.results import VariantResult
from evalkit.store.shared import add_once
from evalkit.store.task_texts import write_task_texts
from evalkit.store.token_losses import write_token_losses

_ID_ATTEMPTS: Final = 8


def require_run(session: Session, run_id: str) -> tables.Run:
    """The row of a run.

    Raises:
        StoreError: there is none of this id.
    """
    run = session.get(tables.Run, run_id)
    if run is None:
        raise StoreError(f"the store has no run {run_id}")
    return run


def write_run(session: Session, run: tables.Run, variants: Sequence[VariantRecord]) -> str:
    """Writes a run that starts now, with the variants that it is going to score.

    Returns:
        Its id, which no other run has.

    Raises:
        StoreError: every id of this second that was tried is taken.
    """
    now = datetime.now(UTC)
    run.started = now.isoformat(timespec="microseconds")
    for _ in range(_ID_ATTEMPTS):
        run.id = f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        if session.get(tables.Run, run.id) is None:
            session.add(run)
            session.flush()
            write_planned(session, run.id, variants)
            return run.id
    raise StoreError("no free id for a run; try again")


def write_planned(session: Session, run_id: str, variants: Sequence[VariantRecord]) -> None:
    """Writes the variants that a run is going to score, in the suite's order."""
    session.add_all(
        tables.Variant(
            run_id=run_id,
            position=position,
            name=variant.name,
            path=list(variant.path),
            parent=variant.parent,
            edge=variant.edge,
        )
        for position, variant in enumerate(variants)
    )


def write_job(session: Session, run_id: str, job: JobRecord) -> tables.Job:
    """Writes a job, over the earlier attempt of the same name where there is one."""
    query = sa.select(tables.Job).filter_by(run_id=run_id, name=job.name)
    row = session.scalar(query) or tables.Job(run_id=run_id, name=job.name)
    row.kind = job.kind
    row.status = job.status
    row.seconds = job.seconds
    row.error = None if job.error is None else storable_text(job.error)
    row.facts = dict(job.facts)
    row.reused_from = job.reused_from
    session.add(row)
    session.flush()
    return row


def write_variant(session: Session, run_id: str, result: VariantResult) -> None:
    """Writes a variant with its job, its scores and its samples.

    Raises:
        StoreError: a metric is given twice, or samples have no key.
    """
    job = write_job(session, run_id, result.job)
    row = _variant_row(session, run_id, result.name)
    row.path = list(result.path)
    row.parent = result.parent
    row.edge = result.edge
    row.job_id = job.id
    row.sample_set_id = result.reused_samples
    if result.samples:
        row.sample_set_id = _write_samples(session, run_id, result)
    session.add(row)
    session.flush()
    known = {
        metric: write_score(session, run_id, key, metric, score)
        for metric, (key, score) in result.scores.items()
    }
    twice = known.keys() & result.reused.keys()
    if twice:
        raise StoreError(f"{result.name}: both computed and reused: {', '.join(sorted(twice))}")
    _show_scores(session, row.id, {**known, **result.reused})


def _variant_row(session: Session, run_id: str, name: str) -> tables.Variant:
    """The planned row or the one of an earlier attempt, else a new one behind all others."""
    row = session.scalar(sa.select(tables.Variant).filter_by(run_id=run_id, name=name))
    if row is not None:
        return row
    last = session.scalar(sa.select(sa.func.max(tables.Variant.position)).filter_by(run_id=run_id))
    return tables.Variant(run_id=run_id, name=name, position=0 if last is None else last + 1)


def _show_scores(session: Session, variant_id: int, scores: dict[str, int]) -> None:
    session.execute(sa.delete(tables.VariantScore).filter_by(variant_id=variant_id))
    session.add_all(
        tables.VariantScore(variant_id=variant_id, metric=metric, score_id=score_id)
        for metric, score_id in scores.items()
    )


def _write_samples(session: Session, run_id: str, result: VariantResult) -> int:
    if result.samples_key is None:
        raise StoreError(f"{result.name}: samples need a reuse key to be stored")
    return _add_samples(session, run_id, result.samples_key, result.samples)


def _add_samples(session: Session, run_id: str, key: str, samples: Sequence[Sample]) -> int:
    row = tables.SampleSet(
        reuse_key=key, computed_in=run_id, samples=[sample_json(sample) for sample in samples]
    )
    session.add(row)
    session.flush()
    return row.id


def write_score(session: Session, run_id: str, key: str, metric: str, score: Score) -> int:
    """Writes a score with its units under its reuse key, and returns its id.

    Raises:
        StoreError: it is one of another metric.
    """
    if score.metric != metric:
        raise StoreError(f"a score of {score.metric} was given as one of {metric}")
    row = tables.ScoreRow(
        reuse_key=key,
        computed_in=run_id,
        metric=metric,
        kind=score.kind,
        value=score.value,
        stderr=score.stderr,
        unit=score.unit,
        higher_is_better=score.higher_is_better,
        units=_write_units(session, score),
        sums=pack_float64(score.sums),
        extra=dict(score.extra),
        comparison=dict(score.comparison),
    )
    session.add(row)
    session.flush()
    write_token_losses(session, row.id, score)
    write_outcomes(session, row.id, score)
    write_task_texts(session, row.id, score)
    write_modules(session, row.id, score)
    return row.id


def _write_units(session: Session, score: Score) -> str:
    counts = pack_float64(score.counts)
    digest = units_digest(score.unit_ids, score.clusters, counts)
    row = tables.UnitSet(
        digest=digest,
        ids=list(score.unit_ids),
        clusters=None if score.clusters == score.unit_ids else list(score.clusters),
        counts=counts,
    )
    add_once(session, row)
    return digest


def write_verdicts(session: Session, run_id: str, verdicts: Sequence[Verdict]) -> None:
    """Writes what the gates of a run came to, in place of what was judged before."""
    session.execute(sa.delete(tables.VerdictRow).filter_by(run_id=run_id))
    session.add_all(
        tables.VerdictRow(
            run_id=run_id,
            position=position,
            verdict=verdict.verdict,
            ok=verdict.ok,
            gate=gate_json(verdict.gate),
            details=verdict_details(verdict),
        )
        for position, verdict in enumerate(verdicts)
    )
