"""What a variant did with every sample of a task: one row a score, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session

from evalkit.records import SampleOutcome, Score
from evalkit.store import tables
from evalkit.store.blobs import pack_float64, unpack_float64


def write_outcomes(session: Session, score_id: int, score: Score) -> None:
    """Writes a score's outcomes; a score without any has no row."""
    outcomes = score.outcomes
    if not outcomes:
        return
    values = [value for outcome in outcomes for value in outcome.log_likelihoods]
    session.add(
        tables.TaskOutcomes(
            score_id=score_id,
            golds=[outcome.gold for outcome in outcomes],
            choices=[outcome.choice for outcome in outcomes],
            correct=[outcome.correct for outcome in outcomes],
            tied=[index for index, outcome in enumerate(outcomes) if outcome.tied],
            lengths=[len(outcome.log_likelihoods) for outcome in outcomes],
            log_likelihoods=pack_float64(np.asarray(values, dtype=np.float64)),
        )
    )


def read_outcomes(
    session: Session, score_ids: Sequence[int]
) -> dict[int, tuple[SampleOutcome, ...]]:
    """The outcomes of those scores that have any, by score id."""
    query = sa.select(tables.TaskOutcomes).where(tables.TaskOutcomes.score_id.in_(score_ids))
    return {row.score_id: _outcomes(row) for row in session.scalars(query)}


def _outcomes(row: tables.TaskOutcomes) -> tuple[SampleOutcome, ...]:
    values = unpack_float64(row.log_likelihoods).tolist()
    ends = np.cumsum(row.lengths).tolist()
    tied = set(row.tied)
    return tuple(
        SampleOutcome(
            gold=gold,
            choice=choice,
            correct=correct,
            log_likelihoods=tuple(values[end - length : end]),
            tied=index in tied,
        )
        for index, (gold, choice, correct, length, end) in enumerate(
            zip(row.golds, row.choices, row.correct, row.lengths, ends, strict=True)
        )
    )
