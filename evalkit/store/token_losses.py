"""The losses of a score's first tokens, and the likeliest tokens beside them, bit for bit."""

from __future__ import annotations

import functools
import json
from collections import defaultdict
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from evalkit.records import Score, TokenLosses
from evalkit.store import tables
from evalkit.store.blobs import pack_float32, pack_json, unpack_float32, unpack_json


def write_token_losses(session: Session, score_id: int, score: Score) -> None:
    """Writes one row for each unit that a score kept the tokens of."""
    session.add_all(
        tables.TokenLossRow(
            score_id=score_id,
            position=position,
            unit=part.unit,
            tokens=list(part.tokens),
            losses=pack_float32(part.losses),
            top_tokens=pack_json(part.top_tokens) if part.top_tokens else None,
            top_probabilities=pack_float32(part.top_probabilities) if part.top_tokens else None,
        )
        for position, part in enumerate(score.token_losses)
    )


def read_token_losses(
    session: Session, score_ids: Sequence[int]
) -> dict[int, tuple[TokenLosses, ...]]:
    """The token losses of those scores that have any, by score id."""
    row = tables.TokenLossRow
    query = sa.select(
        row.score_id, row.unit, sa.cast(row.tokens, sa.Text), row.losses, row.top_tokens,
        row.top_probabilities,
    ).where(row.score_id.in_(score_ids)).order_by(row.position)  # fmt: skip
    # All variants score the same tokens: equal texts are parsed once, and are one object.
    read = functools.cache(lambda text: tuple(json.loads(text)))
    found: dict[int, list[TokenLosses]] = defaultdict(list)
    for score_id, unit, tokens, losses, top_tokens, probabilities in session.execute(query):
        found[score_id].append(
            TokenLosses(
                unit,
                read(tokens),
                unpack_float32(losses),
                tuple(unpack_json(top_tokens)) if top_tokens else (),
                unpack_float32(probabilities or b""),
            )
        )
    return {score_id: tuple(parts) for score_id, parts in found.items()}
