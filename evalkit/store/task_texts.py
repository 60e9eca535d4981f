"""What tasks put to the model: one set of texts for all metrics and variants that share it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from evalkit.records import SampleText, Score
from evalkit.store import tables
from evalkit.store.blobs import pack_json, unpack_json
from evalkit.store.shared import add_once


def write_task_texts(session: Session, score_id: int, score: Score) -> None:
    """Writes a score's texts where they are not there yet; a score without any has no row."""
    if not score.sample_texts:
        return
    rows = [[text.prompt, *text.choices] for text in score.sample_texts]
    digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()
    add_once(session, tables.TaskTextSet(digest=digest, texts=pack_json(rows)))
    session.add(tables.TaskTexts(score_id=score_id, digest=digest))


def read_task_texts(
    session: Session, score_ids: Sequence[int]
) -> dict[int, tuple[SampleText, ...]]:
    """The texts of those scores that have any, by score id; scores that share them share one."""
    links = session.scalars(
        sa.select(tables.TaskTexts).where(tables.TaskTexts.score_id.in_(score_ids))
    ).all()
    digests = {link.digest for link in links}
    query = sa.select(tables.TaskTextSet).where(tables.TaskTextSet.digest.in_(digests))
    texts = {row.digest: _texts(row) for row in session.scalars(query)}
    return {link.score_id: texts[link.digest] for link in links}


def _texts(row: tables.TaskTextSet) -> tuple[SampleText, ...]:
    return tuple(SampleText(prompt, tuple(choices)) for prompt, *choices in unpack_json(row.texts))
