"""Looks up what was computed before, by the keys of what it was computed from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from evalkit.records import JsonObject
from evalkit.store import tables
from evalkit.store.blobs import FLOAT64_BYTES, sample_from_json
from evalkit.store.reading import job_record
from evalkit.store.results import StoredSamples, StoredScore, StoredTraining


def find_score(session: Session, reuse_key: str) -> StoredScore | None:
    """The newest score of this key."""
    found = _stored_scores(session, [reuse_key])[reuse_key]
    return found[-1] if found else None


def find_scores(session: Session, reuse_keys: Collection[str]) -> dict[str, dict[str, StoredScore]]:
    """By key, the newest score of each metric that was computed under it."""
    found = _stored_scores(session, reuse_keys)
    return {key: {score.metric: score for score in found[key]} for key in reuse_keys}


def _stored_scores(
    session: Session, reuse_keys: Collection[str]
) -> defaultdict[str, list[StoredScore]]:
    """Every score of these keys, the oldest first; of other keys, none."""
    mine = tables.TokenLossRow.score_id == tables.ScoreRow.id
    query = (
        sa.select(
            tables.ScoreRow,
            sa.func.length(tables.UnitSet.counts),
            sa.select(sa.func.count()).where(mine).correlate(tables.ScoreRow).scalar_subquery(),
        )
        .join(tables.UnitSet, tables.UnitSet.digest == tables.ScoreRow.units)
        .where(tables.ScoreRow.reuse_key.in_(reuse_keys))
        .order_by(tables.ScoreRow.id)
    )
    found: defaultdict[str, list[StoredScore]] = defaultdict(list)
    for row, length, tokens in session.execute(query):
        score = StoredScore(
            *(row.id, row.computed_in, row.metric, row.value, row.stderr, row.extra),
            units=length // FLOAT64_BYTES,
            kept_units=tokens,
        )
        found[row.reuse_key].append(score)
    return found


def find_samples(session: Session, reuse_key: str) -> StoredSamples | None:
    """The newest samples of this key."""
    row = session.scalar(
        sa.select(tables.SampleSet)
        .filter_by(reuse_key=reuse_key)
        .order_by(tables.SampleSet.id.desc())
        .limit(1)
    )
    if row is None:
        return None
    return StoredSamples(row.id, row.computed_in, tuple(map(sample_from_json, row.samples)))


def find_training(session: Session, reuse_key: str) -> StoredTraining | None:
    """The newest finished training of this recipe."""
    row = session.scalar(
        sa.select(tables.Job)
        .filter_by(reuse_key=reuse_key, kind="train", status="done")
        .order_by(tables.Job.id.desc())
        .limit(1)
    )
    return None if row is None else StoredTraining(row.run_id, job_record(row), row.content_digest)


def find_facts(session: Session, run_id: str, score_ids: Sequence[int]) -> JsonObject:
    """What the job recorded in whose run a variant showed any of these scores; empty if none."""
    facts = session.scalar(
        sa.select(tables.Job.facts)
        .join(tables.Variant, tables.Variant.job_id == tables.Job.id)
        .join(tables.VariantScore, tables.VariantScore.variant_id == tables.Variant.id)
        .where(tables.Variant.run_id == run_id, tables.VariantScore.score_id.in_(score_ids))
        .limit(1)
    )
    return dict(facts or {})
