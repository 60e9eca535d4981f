"""Rows to records. Nothing of SQLAlchemy leaves here."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Literal, cast

import sqlalchemy as sa
from sqlalchemy.orm import Session

from evalkit.errors import UsageError
from evalkit.records import (
    JobKind,
    JobRecord,
    JobStatus,
    MetricKind,
    RunRecord,
    Sample,
    Score,
    VariantRecord,
    Verdict,
)
from evalkit.store import tables
from evalkit.store.blobs import (
    gate_from_json,
    sample_from_json,
    unpack_float64,
    verdict_from_json,
)
from evalkit.store.modules import read_modules
from evalkit.store.outcomes import read_outcomes
from evalkit.store.repeats import repeat_rows, repeats_of
from evalkit.store.results import RunSummary
from evalkit.store.task_texts import read_task_texts
from evalkit.store.token_losses import read_token_losses

LATEST: Literal["latest"] = "latest"

_NEWEST = (tables.Run.started.desc(), tables.Run.id.desc())


def resolve_run(session: Session, reference: str) -> str:
    """The id of the run that a user means by `latest`, an id, or the unique start of one.

    Raises:
        UsageError: there is none, or there are several.
    """
    newest = sa.select(tables.Run.id).order_by(*_NEWEST)
    if reference == LATEST:
        run_id = session.scalar(newest.limit(1))
        if run_id is None:
            raise UsageError("the store has no runs yet; `evalkit run SUITE` makes one")
        return run_id
    if session.get(tables.Run, reference) is not None:
        return reference
    starts = tables.Run.id.startswith(reference, autoescape=True)
    found = session.scalars(newest.where(starts).limit(4)).all() if reference else ()
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"{len(found)} or more runs begin with {reference}: {', '.join(found)}")
    known = session.scalars(newest.limit(4)).all()
    listed = f"; the newest are {', '.join(known)}" if known else "; the store has none yet"
    raise UsageError(f"no run {reference!r} (allowed: an id, its start, or {LATEST}){listed}")


def read_run(session: Session, run_id: str) -> RunRecord:
    """Everything that is stored of one run; `run_id` must exist."""
    run = session.get_one(tables.Run, run_id)
    jobs = session.scalars(sa.select(tables.Job).filter_by(run_id=run_id).order_by(tables.Job.id))
    by_id = {job.id: job_record(job) for job in jobs}
    return RunRecord(
        id=run.id,
        suite=run.suite,
        place=run.place,
        started=run.started,
        seconds=run.seconds,
        exit_code=run.exit_code,
        suite_text=run.suite_text,
        suite_json=run.suite_json,
        arguments=run.arguments,
        provenance=run.provenance,
        variants=_variants(session, run_id, by_id),
        adapters=tuple(job for job in by_id.values() if job.kind == "train"),
        references=tuple(job for job in by_id.values() if job.kind == "reference"),
        verdicts=_verdicts(session, run_id),
        gates=tuple(gate_from_json(gate) for gate in run.gates),
    )


def job_record(row: tables.Job) -> JobRecord:
    """What became of a job."""
    return JobRecord(
        name=row.name,
        kind=cast("JobKind", row.kind),
        status=cast("JobStatus", row.status),
        seconds=row.seconds,
        error=row.error,
        facts=row.facts,
        reused_from=row.reused_from,
    )


def _variants(
    session: Session, run_id: str, jobs: Mapping[int, JobRecord]
) -> tuple[VariantRecord, ...]:
    query = sa.select(tables.Variant).filter_by(run_id=run_id).order_by(tables.Variant.position)
    rows = session.scalars(query).all()
    shown: dict[int, dict[str, int]] = defaultdict(dict)
    links = sa.select(tables.VariantScore).where(
        tables.VariantScore.variant_id.in_([row.id for row in rows])
    )
    # Sorted here: every server has its own order of letters.
    for link in sorted(session.scalars(links), key=lambda link: link.metric):
        shown[link.variant_id][link.metric] = link.score_id
    again = repeat_rows(session, [row.id for row in rows])
    ids = {id_ for metrics in shown.values() for id_ in metrics.values()}
    scores = read_scores(session, ids | {row.score_id for found in again.values() for row in found})
    return tuple(
        VariantRecord(
            name=row.name,
            path=tuple(row.path),
            parent=row.parent,
            edge=row.edge,
            job=None if row.job_id is None else jobs[row.job_id],
            scores={metric: scores[id_] for metric, id_ in shown[row.id].items()},
            samples=_samples(session, row.sample_set_id),
            repeats=repeats_of(again.get(row.id, ()), scores),
        )
        for row in rows
    )


def _samples(session: Session, set_id: int | None) -> tuple[Sample, ...]:
    if set_id is None:
        return ()
    return tuple(map(sample_from_json, session.get_one(tables.SampleSet, set_id).samples))


def read_scores(session: Session, ids: Iterable[int]) -> dict[int, Score]:
    """Whole scores by their ids, each with its per-unit values, token losses, answers and texts."""
    wanted = sorted(ids)
    rows = session.scalars(sa.select(tables.ScoreRow).where(tables.ScoreRow.id.in_(wanted))).all()
    digests = {row.units for row in rows}
    units = {
        row.digest: row
        for row in session.scalars(
            sa.select(tables.UnitSet).where(tables.UnitSet.digest.in_(digests))
        )
    }
    losses = read_token_losses(session, wanted)
    outcomes, modules = read_outcomes(session, wanted), read_modules(session, wanted)
    texts = read_task_texts(session, wanted)
    return {
        row.id: replace(
            _score(row, units[row.units]),
            token_losses=losses.get(row.id, ()),
            outcomes=outcomes.get(row.id, ()),
            sample_texts=texts.get(row.id, ()),
            modules=modules.get(row.id, ()),
        )
        for row in rows
    }


def _score(row: tables.ScoreRow, units: tables.UnitSet) -> Score:
    ids = tuple(units.ids)
    return Score(
        metric=row.metric,
        kind=cast("MetricKind", row.kind),
        value=row.value,
        stderr=row.stderr,
        unit=row.unit,
        higher_is_better=row.higher_is_better,
        unit_ids=ids,
        clusters=ids if units.clusters is None else tuple(units.clusters),
        sums=unpack_float64(row.sums),
        counts=unpack_float64(units.counts),
        extra=row.extra,
        comparison=row.comparison,
    )


def _verdicts(session: Session, run_id: str) -> tuple[Verdict, ...]:
    rows = session.scalars(
        sa.select(tables.VerdictRow).filter_by(run_id=run_id).order_by(tables.VerdictRow.position)
    )
    return tuple(
        verdict_from_json(gate_from_json(row.gate), row.verdict, row.ok, row.details)
        for row in rows
    )


def list_runs(session: Session, limit: int) -> tuple[RunSummary, ...]:
    """The newest runs, newest first, in three queries whatever their number."""
    columns = (tables.Run.id, tables.Run.suite, tables.Run.started)
    ends = (tables.Run.seconds, tables.Run.exit_code)
    runs = session.execute(sa.select(*columns, *ends).order_by(*_NEWEST).limit(limit)).all()
    ids = [run.id for run in runs]
    status = (
        sa.select(tables.Variant.run_id, tables.Job.status)
        .outerjoin(tables.Job, tables.Variant.job_id == tables.Job.id)
        .where(tables.Variant.run_id.in_(ids))
    )
    jobs: dict[str, list[str | None]] = defaultdict(list)
    for run_id, state in session.execute(status):
        jobs[run_id].append(state)
    verdicts: dict[str, Counter[str]] = defaultdict(Counter)
    judged = sa.select(tables.VerdictRow.run_id, tables.VerdictRow.verdict)
    for run_id, name in session.execute(judged.where(tables.VerdictRow.run_id.in_(ids))):
        verdicts[run_id][name] += 1
    return tuple(
        RunSummary(
            id=run.id,
            suite=run.suite,
            started=run.started,
            seconds=run.seconds,
            exit_code=run.exit_code,
            variants=len(jobs[run.id]),
            scored=sum(state in ("done", "reused") for state in jobs[run.id]),
            verdicts=dict(verdicts[run.id]),
        )
        for run in runs
    )
