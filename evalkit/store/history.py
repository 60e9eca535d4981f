"""Rows to a suite's history, in eight queries whatever the number of runs.

Of what lies behind a score only the units are read, once for all scores that share them. JSON comes
as text and equal texts are parsed once: paths, protocols and packages seldom change between runs.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session

from evalkit.records import (
    Float64s,
    History,
    JobRecord,
    PastRun,
    PastScore,
    Promotion,
    RunRecord,
    Score,
    VariantRecord,
)
from evalkit.store import tables
from evalkit.store.blobs import gate_from_json, unpack_float64, verdict_from_json
from evalkit.store.json_columns import from_json

_Query = sa.Select[*tuple[Any, ...]]
_Row = sa.Row[*tuple[Any, ...]]
_Rows = Mapping[str, Sequence[_Row]]
"""Rows of a table by the run that they belong to."""


@dataclass(frozen=True)
class _Units:
    """A unit set as its scores share it."""

    ids: tuple[str, ...]
    clusters: tuple[str, ...]
    counts: Float64s
    sums: Float64s
    n_clusters: int
    digest: str


@dataclass(frozen=True)
class _Texts:
    """JSON texts that were parsed before."""

    parsed: dict[str, Any] = field(default_factory=dict)

    def read(self, text: str | None) -> Any:
        if text is None:
            return None
        if text not in self.parsed:
            self.parsed[text] = from_json(text)
        return self.parsed[text]


def list_suites(session: Session) -> tuple[str, ...]:
    """The names of all suites that were ever run, by their first run."""
    first = sa.func.min(tables.Run.started)
    found = session.execute(sa.select(first, tables.Run.suite).group_by(tables.Run.suite))
    # Sorted here, as wherever names decide: every server has its own order of letters.
    return tuple(suite for _, suite in sorted(map(tuple, found)))


def read_history(session: Session, suite: str) -> History:
    """Every run of a suite; a suite without runs has an empty history."""
    texts = _Texts()
    scores = _scores(session, suite, texts)
    variants, jobs = _by_run(session, _variants(suite)), _by_run(session, _jobs(suite))
    shown = _by_run(session, _shown(suite))
    verdicts = _by_run(session, _verdicts(suite))
    runs = tuple(
        _run(
            suite,
            row,
            {
                "variants": variants.get(row.id, ()),
                "jobs": jobs.get(row.id, ()),
                "shown": shown.get(row.id, ()),
                "verdicts": verdicts.get(row.id, ()),
            },
            scores,
            texts,
        )
        for row in session.execute(_runs(suite))
    )
    return History(suite, runs, _promotions(session, suite))


# --------------------------------------------------------------------------------- queries


def _text(column: Any) -> sa.ColumnElement[str]:
    """A JSON column as the text that the database holds."""
    return sa.cast(column, sa.Text).label(column.key)


def _runs(suite: str) -> _Query:
    run = tables.Run
    return (
        sa.select(
            run.id, run.place, run.started, run.seconds, run.exit_code, _text(run.suite_json),
            _text(run.arguments), _text(run.provenance), _text(run.gates),
        )
        .where(run.suite == suite)
        .order_by(run.started, run.id)
    )  # fmt: skip


def _of_suite(query: _Query, table: Any, suite: str) -> _Query:
    return query.join(tables.Run, table.run_id == tables.Run.id).where(tables.Run.suite == suite)


def _variants(suite: str) -> _Query:
    variant = tables.Variant
    columns = (variant.name, _text(variant.path), variant.parent, variant.edge, variant.job_id)
    query = sa.select(variant.run_id, variant.id, *columns)
    return _of_suite(query, variant, suite).order_by(variant.run_id, variant.position)


def _jobs(suite: str) -> _Query:
    job = tables.Job
    # Facts of trainings hold whole loss curves, and no page over many runs shows one.
    facts = sa.case((job.kind == "score", sa.cast(job.facts, sa.Text))).label("facts")
    columns = (job.name, job.kind, job.status, job.seconds, job.error, job.reused_from, facts)
    return _of_suite(sa.select(job.run_id, job.id, *columns), job, suite).order_by(job.id)


def _shown(suite: str) -> _Query:
    link, variant = tables.VariantScore, tables.Variant
    query = sa.select(variant.run_id, link.variant_id, link.metric, link.score_id)
    query = query.join(variant, link.variant_id == variant.id)
    return _of_suite(query, variant, suite).order_by(link.variant_id, link.metric)


def _verdicts(suite: str) -> _Query:
    row = tables.VerdictRow
    columns = (row.verdict, row.ok, _text(row.gate), _text(row.details))
    return _of_suite(sa.select(row.run_id, *columns), row, suite).order_by(row.position)


def _by_run(session: Session, query: _Query) -> dict[str, list[_Row]]:
    found: dict[str, list[_Row]] = defaultdict(list)
    for row in session.execute(query):
        found[row.run_id].append(row)
    return found


# --------------------------------------------------------------------------------- scores


def _scores(session: Session, suite: str, texts: _Texts) -> dict[int, tuple[Score, PastScore]]:
    """Every score that a run of the suite shows, by its id."""
    score, link, variant = tables.ScoreRow, tables.VariantScore, tables.Variant
    ids = _of_suite(
        sa.select(link.score_id).join(variant, link.variant_id == variant.id), variant, suite
    )
    mine = score.id.in_(ids)
    query = sa.select(
        score.id, score.metric, score.kind, score.value, score.stderr, score.unit,
        score.higher_is_better, score.units, _text(score.extra), _text(score.comparison),
    )  # fmt: skip
    units = _units(session, sa.select(score.units).where(mine))
    found = {}
    for row in session.execute(query.where(mine)):
        behind = units[row.units]
        key = hashlib.sha256(f"{row.comparison}{behind.digest}".encode()).hexdigest()[:16]
        hollow = Score(
            row.metric, row.kind, row.value, row.stderr, row.unit, row.higher_is_better,
            behind.ids, behind.clusters, behind.sums, behind.counts,
            texts.read(row.extra), texts.read(row.comparison),
        )  # fmt: skip
        found[row.id] = hollow, PastScore(row.id, behind.n_clusters, key)
    return found


def _units(session: Session, digests: _Query) -> dict[str, _Units]:
    query = sa.select(tables.UnitSet).where(tables.UnitSet.digest.in_(digests))
    return {row.digest: _unit_set(row) for row in session.scalars(query)}


def _unit_set(row: tables.UnitSet) -> _Units:
    ids = tuple(row.ids)
    clusters = ids if row.clusters is None else tuple(row.clusters)
    digest = hashlib.sha256(json.dumps(ids).encode()).hexdigest()
    sums = np.full(len(ids), np.nan)
    counts = unpack_float64(row.counts)
    return _Units(ids, clusters, counts, sums, len(set(clusters)), digest)


# --------------------------------------------------------------------------------- records


def _run(
    suite: str,
    row: _Row,
    rows: _Rows,
    scores: Mapping[int, tuple[Score, PastScore]],
    texts: _Texts,
) -> PastRun:
    jobs = {job.id: _job(job, texts) for job in rows["jobs"]}
    shown: dict[int, dict[str, int]] = defaultdict(dict)
    for link in sorted(rows["shown"], key=lambda link: link.metric):
        shown[link.variant_id][link.metric] = link.score_id
    variants = tuple(
        VariantRecord(
            name=variant.name,
            path=tuple(texts.read(variant.path)),
            parent=variant.parent,
            edge=variant.edge,
            job=jobs.get(variant.job_id),
            scores={metric: scores[id_][0] for metric, id_ in shown[variant.id].items()},
        )
        for variant in rows["variants"]
    )
    outline = RunRecord(
        id=row.id,
        suite=suite,
        started=row.started,
        seconds=row.seconds,
        exit_code=row.exit_code,
        suite_text="",
        suite_json=texts.read(row.suite_json),
        arguments=texts.read(row.arguments),
        provenance=texts.read(row.provenance),
        variants=variants,
        adapters=tuple(job for job in jobs.values() if job.kind == "train"),
        references=tuple(job for job in jobs.values() if job.kind == "reference"),
        verdicts=tuple(
            verdict_from_json(
                gate_from_json(texts.read(each.gate)), each.verdict, each.ok,
                texts.read(each.details),
            )
            for each in rows["verdicts"]
        ),
        gates=tuple(map(gate_from_json, texts.read(row.gates))),
        place=row.place,
    )  # fmt: skip
    past = {
        variant.name: {metric: scores[id_][1] for metric, id_ in shown[variant.id].items()}
        for variant in rows["variants"]
    }
    return PastRun(outline, past, _stamp(row, rows, outline))


def _job(row: _Row, texts: _Texts) -> JobRecord:
    return JobRecord(
        name=row.name,
        kind=cast("Any", row.kind),
        status=cast("Any", row.status),
        seconds=row.seconds,
        error=row.error,
        facts=texts.read(row.facts) or {},
        reused_from=row.reused_from,
    )


def _stamp(row: _Row, rows: _Rows, outline: RunRecord) -> str:
    digest = hashlib.sha256(repr(tuple(row)).encode("utf-8", "backslashreplace"))
    for name in sorted(rows):
        for each in rows[name]:
            digest.update(repr(tuple(each)).encode("utf-8", "backslashreplace"))
    for variant in outline.variants:
        for score in variant.scores.values():
            digest.update(repr((score.metric, score.value, score.stderr)).encode())
    return digest.hexdigest()


def _promotions(session: Session, suite: str) -> tuple[Promotion, ...]:
    row = tables.BaselineRow
    query = sa.select(row.name, row.run, row.promoted).where(row.suite == suite).order_by(row.id)
    newest = {found.name: Promotion(*found) for found in session.execute(query)}
    return tuple(newest[name] for name in sorted(newest))
