"""What a merge did to every module: one row a survival score, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session

from evalkit.records import Score
from evalkit.records.integrity import ModuleSurvival
from evalkit.store import tables
from evalkit.store.blobs import pack_float64, unpack_float64

_SUMS = ("inner", "wanted", "error", "weight", "codes", "codes_changed")
"""The fields of a module in the order of a row's numbers; the last two are whole."""


def write_modules(session: Session, score_id: int, score: Score) -> None:
    """Writes a score's modules; a score without any has no row."""
    if not score.modules:
        return
    values = [getattr(part, name) for part in score.modules for name in _SUMS]
    session.add(
        tables.SurvivalModules(
            score_id=score_id,
            modules=[part.module for part in score.modules],
            sums=pack_float64(np.asarray(values, dtype=np.float64)),
        )
    )


def read_modules(
    session: Session, score_ids: Sequence[int]
) -> dict[int, tuple[ModuleSurvival, ...]]:
    """The modules of those scores that have any, by score id."""
    query = sa.select(tables.SurvivalModules).where(tables.SurvivalModules.score_id.in_(score_ids))
    return {row.score_id: _modules(row) for row in session.scalars(query)}


def _modules(row: tables.SurvivalModules) -> tuple[ModuleSurvival, ...]:
    values = unpack_float64(row.sums).reshape(len(row.modules), len(_SUMS)).tolist()
    return tuple(
        ModuleSurvival(name, inner, wanted, error, weight, int(codes), int(changed))
        for name, (inner, wanted, error, weight, codes, changed) in zip(
            row.modules, values, strict=True
        )
    )
