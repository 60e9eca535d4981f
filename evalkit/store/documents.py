"""Rows of a store as documents that mean the same in every other one, and back.

A document is a row by its columns' names, with what hangs on it, and no number that only one store
gives out. It refers to others by the digests of theirs, so a run's digest says everything about the
run. Columns that are null are left out: those that a later schema adds change no older document.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from evalkit.records import JsonObject
from evalkit.store import tables
from evalkit.store.run_files import digest_of

SCORE_PARTS: Final[tuple[type[Any], ...]] = (
    tables.TokenLossRow,
    tables.TaskOutcomes,
    tables.TaskTexts,
    tables.SurvivalModules,
)
"""What hangs on a score, by `score_id`."""
_OWN: Final = {
    "id", "run_id", "variant_id", "score_id", "job_id", "sample_set_id", "family", "seed",
}  # fmt: skip
"""Columns whose values mean nothing in another store, or say again what is in a job's facts."""


def scores_of(session: Session, run_id: str) -> list[tables.ScoreRow]:
    """Every score that a run shows, its repeats' included, in the order they were stored in."""
    mine = sa.select(tables.Variant.id).filter_by(run_id=run_id)
    shown = [
        sa.select(link.score_id).where(link.variant_id.in_(mine))
        for link in (tables.VariantScore, tables.RepeatRow)
    ]
    query = sa.select(tables.ScoreRow).where(tables.ScoreRow.id.in_(sa.union_all(*shown)))
    return list(session.scalars(query.order_by(tables.ScoreRow.id)))


def score_document(session: Session, row: tables.ScoreRow) -> JsonObject:
    """A score with all that hangs on it."""
    parts: JsonObject = {}
    for table in SCORE_PARTS:
        query = sa.select(table).filter_by(score_id=row.id).order_by(*table.__table__.primary_key)
        if found := [columns_of(part) for part in session.scalars(query)]:
            parts[table.__tablename__] = found
    return {**columns_of(row), "parts": parts}


def run_document(session: Session, run: tables.Run, digests: Mapping[int, str]) -> JsonObject:
    """A run with its jobs, variants and verdicts.

    Args:
        session: of the store.
        run: the row.
        digests: of the documents of the scores that it shows, by their ids.
    """
    jobs = session.scalars(sa.select(tables.Job).filter_by(run_id=run.id).order_by(tables.Job.id))
    told = {job.id: columns_of(job) for job in jobs}
    places = {job_id: place for place, job_id in enumerate(told)}
    variants = session.scalars(
        sa.select(tables.Variant).filter_by(run_id=run.id).order_by(tables.Variant.position)
    )
    verdicts = session.scalars(
        sa.select(tables.VerdictRow).filter_by(run_id=run.id).order_by(tables.VerdictRow.position)
    )
    return {
        **columns_of(run),
        "id": run.id,
        "jobs": list(told.values()),
        "variants": [_variant(session, row, places, digests) for row in variants],
        "verdicts": [columns_of(verdict) for verdict in verdicts],
    }


def _variant(
    session: Session,
    variant: tables.Variant,
    places: Mapping[int, int],
    digests: Mapping[int, str],
) -> JsonObject:
    # Sorted here: every server has its own order of letters.
    shown = session.scalars(sa.select(tables.VariantScore).filter_by(variant_id=variant.id))
    scores = {link.metric: digests[link.score_id] for link in shown}
    again = session.scalars(sa.select(tables.RepeatRow).filter_by(variant_id=variant.id))
    body = {
        **columns_of(variant),
        "scores": {metric: scores[metric] for metric in sorted(scores)},
        "repeats": [
            {**columns_of(row), "score": digests[row.score_id]}
            for row in sorted(again, key=lambda row: (row.position, row.label, row.metric))
        ],
    }
    if variant.job_id is not None:
        body["job"] = places[variant.job_id]
    if variant.sample_set_id is not None:
        samples = session.get_one(tables.SampleSet, variant.sample_set_id)
        body["samples"] = digest_of(columns_of(samples))
    return body


def columns_of(row: Any) -> JsonObject:
    """A row's values by their columns, as JSON; bytes are base64."""
    values = {column.key: getattr(row, column.key) for column in row.__table__.columns}
    return {
        key: base64.b64encode(value).decode("ascii") if isinstance(value, bytes) else value
        for key, value in values.items()
        if key not in _OWN and value is not None
    }


def row_of(table: type[Any], body: Mapping[str, Any], **own: object) -> Any:
    """The row that `columns_of` was given.

    Raises:
        ValueError: a column is not known, or one that must have a value has none.
    """
    columns = {column.key: column for column in table.__table__.columns if column.key not in _OWN}
    if unknown := body.keys() - columns.keys():
        raise ValueError(f"{table.__tablename__} has no {', '.join(sorted(unknown))}")
    absent = {key for key, column in columns.items() if not column.nullable} - body.keys()
    if absent:
        raise ValueError(f"{table.__tablename__} needs {', '.join(sorted(absent))}")
    binary = {key for key, column in columns.items() if isinstance(column.type, sa.LargeBinary)}
    values = {
        key: base64.b64decode(value, validate=True) if key in binary else value
        for key, value in body.items()
    }
    return table(**values, **own)
