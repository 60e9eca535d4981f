"""Where it happened: the documents that moved most, token by token, for every stored variant."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from evalkit.records import RunRecord, Score, TokenLosses
from evalkit.report import facts
from evalkit.report.documents_view import judged_pairs
from evalkit.report.words import clean

MOST_DOCUMENTS = 12
MOST_TOKENS = 400
"""Of each document: what a reader looks at, and what keeps a page of many variants small."""
_LONGEST_TOKEN = 200


@dataclass(frozen=True)
class Document:
    """One document's tokens and what every variant made of them."""

    id: str
    tokens: tuple[str, ...]
    left_out: int
    """Tokens behind those that are shown."""
    parts: tuple[TokenLosses, ...]
    """Of each variant of the view."""


@dataclass(frozen=True)
class TokenView:
    """The documents that moved most between any two of the variants."""

    metric: str
    noun: str
    variants: tuple[str, ...]
    pair: tuple[int, int]
    """Which two the page begins with: from, to."""
    documents: tuple[Document, ...]
    kept: int
    """Documents whose tokens are stored."""
    total: int
    """Documents that were scored."""


def token_view(run: RunRecord) -> TokenView | None:
    """The view; None where fewer than two comparable variants have tokens stored."""
    metric = facts.primary_perplexity(run)
    scores = {} if metric is None else _stored(run, metric)
    if metric is None or len(scores) < 2:
        return None
    parts = {
        name: {part.unit: part for part in score.token_losses} for name, score in scores.items()
    }
    first = next(iter(scores.values()))
    kept = [
        unit
        for unit, part in next(iter(parts.values())).items()
        if all(mine.get(unit) and mine[unit].tokens == part.tokens for mine in parts.values())
    ]
    if not kept:
        return None
    names = tuple(scores)
    shown = sorted(kept, key=lambda unit: -_largest_move(scores, unit))[:MOST_DOCUMENTS]
    return TokenView(
        metric=metric,
        noun=facts.unit_noun(first),
        variants=names,
        pair=_first_pair(run, names),
        documents=tuple(_document(first, unit, [parts[name][unit] for name in names])
                        for unit in shown),
        kept=len(kept),
        total=len(first.unit_ids),
    )  # fmt: skip


def token_data(view: TokenView) -> dict[str, Any]:
    """The view as JSON: losses in thousandths of a nat, probabilities in ten-thousandths.

    Likeliest tokens are indices into `pieces`; a variant whose likeliest tokens were not stored
    has none.
    """
    pieces: dict[str, int] = {}
    # Tens of thousands of tokens, and few that differ.
    shown = functools.cache(functools.partial(clean, longest=_LONGEST_TOKEN))

    def index(text: str) -> int:
        return pieces.setdefault(shown(text), len(pieces))

    documents = [
        {
            "id": clean(document.id, longest=300),
            "tokens": [shown(token) for token in document.tokens],
            "left": document.left_out,
            "variants": [_variant_data(part, len(document.tokens), index)
                         for part in document.parts],
        }
        for document in view.documents
    ]  # fmt: skip
    return {
        "variants": [clean(name, longest=200) for name in view.variants],
        "pair": list(view.pair),
        "documents": documents,
        "pieces": list(pieces),
    }


def _variant_data(part: TokenLosses, count: int, index: Any) -> dict[str, list[int]]:
    data = {"loss": [round(1000 * float(loss)) for loss in part.losses[:count]]}
    if part.top_tokens:
        data["top"] = [index(token) for token in part.top_tokens[:count]]
        data["p"] = [round(10_000 * float(p)) for p in part.top_probabilities[:count]]
    return data


def _stored(run: RunRecord, metric: str) -> dict[str, Score]:
    """The scores with tokens that can be compared with the first of them."""
    with_tokens = [
        (variant.name, variant.scores[metric])
        for variant in run.variants
        if metric in variant.scores and variant.scores[metric].token_losses
    ]
    return {
        name: score for name, score in with_tokens if facts.comparable(score, with_tokens[0][1])
    }


def _largest_move(scores: Mapping[str, Score], unit: int) -> float:
    """The largest difference between any two variants, in nats per token."""
    means = [float(score.sums[unit] / score.counts[unit]) for score in scores.values()]
    return max(abs(one - other) for one, other in combinations(means, 2))


def _first_pair(run: RunRecord, names: Sequence[str]) -> tuple[int, int]:
    """The pair of the first gate that a reader looks at, else the first variant and the last."""
    pairs = [(one, other) for one, other in judged_pairs(run) if {one, other} <= set(names)]
    variant, against = pairs[0] if pairs else (names[-1], names[0])
    return names.index(against), names.index(variant)


def _document(score: Score, unit: int, parts: Sequence[TokenLosses]) -> Document:
    tokens = parts[0].tokens[:MOST_TOKENS]
    everything = int(score.counts[unit])
    return Document(score.unit_ids[unit], tokens, max(0, everything - len(tokens)), tuple(parts))
