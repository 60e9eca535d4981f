"""What a protocol scores of a corpus: its windows, the units they add up to, and their texts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from evalkit.errors import DataError
from evalkit.records import Corpus, Document
from evalkit.scoring.kept_tokens import kept_tokens
from evalkit.scoring.tokens import (
    TokenText,
    added_bos,
    prefix_token,
    render,
    tokenize,
    tokenize_document,
)
from evalkit.scoring.windows import (
    Place,
    Window,
    chunk_targets,
    chunk_windows,
    document_windows,
    fair_share,
    stream_windows,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from evalkit.suite import PerplexitySpec

SEPARATOR = "\n\n"
"""Between the documents of a stream: a blank line."""


@dataclass(frozen=True, eq=False)
class Layout:
    """Everything to score: the windows, the units they add up to, the texts they are from."""

    windows: tuple[Window, ...]
    texts: tuple[TokenText, ...]
    unit_ids: tuple[str, ...]
    clusters: tuple[str, ...]

    @property
    def n_tokens(self) -> int:
        """Tokens scored."""
        return sum(len(window.targets) for window in self.windows)


def plan_layout(
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    spec: PerplexitySpec,
    max_tokens_per_document: int | None,
    cache: Path | None = None,
) -> Layout:
    """Tokenise the corpus and lay the protocol's windows over it.

    Args:
        tokenizer: the model's.
        corpus: the documents.
        spec: protocol, lengths, caps.
        max_tokens_per_document: cap on the scored tokens of each document (`documents` only).
        cache: where tokenised corpora are kept (`kept_tokens`); None tokenises.

    Raises:
        DataError: nothing can be scored, or not this way.
    """
    if spec.protocol == "documents":
        layout = _documents(tokenizer, corpus, spec, max_tokens_per_document, cache)
    elif spec.score_on == "completion":
        raise DataError(f"score_on: completion goes with protocol documents, not {spec.protocol}")
    else:
        layout = _joined(tokenizer, corpus, spec, cache)
    if not layout.windows:
        raise DataError(f"{corpus.name}: no tokens to score in {corpus.origin}")
    return layout


def _documents(
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    spec: PerplexitySpec,
    max_tokens_per_document: int | None,
    cache: Path | None,
) -> Layout:
    texts = kept_tokens(
        tokenizer,
        corpus,
        f"documents, score_on {spec.score_on}",
        lambda: [tokenize_document(tokenizer, each, spec.score_on) for each in corpus.documents],
        cache,
    )
    pairs = zip(corpus.documents, texts, strict=True)
    scored = [(document, text) for document, text in pairs if len(text.ids)]
    for document, text in scored:
        _check_completion(document, text, spec)
    lengths = [
        min(len(text.ids) - text.scored_from, max_tokens_per_document or len(text.ids))
        for _, text in scored
    ]
    cap = fair_share(lengths, spec.tokens or sum(lengths))
    if scored and cap < 1:
        raise DataError(
            f"{corpus.name}: tokens: {spec.tokens} is less than a token for each of "
            f"{len(scored)} documents; set the data's limit, or more tokens"
        )
    prefix = prefix_token(tokenizer)
    windows = [
        window
        for index, (_, text) in enumerate(scored)
        for window in document_windows(
            np.array(text.ids[: text.scored_from + min(lengths[index], cap)]),
            Place(index, index),
            prefix=prefix,
            max_length=spec.max_length,
            scored_from=text.scored_from,
        )
    ]
    return Layout(
        tuple(windows),
        tuple(text for _, text in scored),
        tuple(document.id for document, _ in scored),
        tuple(document.cluster or document.id for document, _ in scored),
    )


def _check_completion(document: Document, text: TokenText, spec: PerplexitySpec) -> None:
    if spec.score_on == "all":
        return
    if text.scored_from >= len(text.ids):
        raise DataError(f"document {document.id}: its completion has no tokens of its own")
    if text.scored_from >= spec.max_length:
        raise DataError(
            f"document {document.id}: its prompt of {text.scored_from} tokens fills the window "
            f"(max_length {spec.max_length}): nothing of the completion would see all of it"
        )


def _joined(
    tokenizer: PreTrainedTokenizerBase, corpus: Corpus, spec: PerplexitySpec, cache: Path | None
) -> Layout:
    """The layout of `stream` and `chunks`: one text, a blank line between documents."""

    def joined() -> list[TokenText]:
        parts = (render(tokenizer, document)[0] for document in corpus.documents)
        return [tokenize(tokenizer, SEPARATOR.join(parts), special=True)]

    (text,) = kept_tokens(tokenizer, corpus, "joined by a blank line", joined, cache)
    windows = tuple(_joined_windows(tokenizer, corpus, text, spec))
    name = "window" if spec.protocol == "stream" else "chunk"
    unit_ids = tuple(f"{name} {index}" for index in range(len(windows)))
    return Layout(windows, (text,), unit_ids, unit_ids)


def _joined_windows(
    tokenizer: PreTrainedTokenizerBase, corpus: Corpus, text: TokenText, spec: PerplexitySpec
) -> Iterable[Window]:
    if spec.protocol == "stream":
        # The first token of a stream is not scored.
        ids = text.ids if spec.tokens is None else text.ids[: spec.tokens + 1]
        return stream_windows(np.array(ids), max_length=spec.max_length, stride=stride(spec))
    ids = text.ids
    if spec.tokens is not None:
        ids = ids[: spec.max_length * (spec.tokens // max(1, chunk_targets(spec.max_length)))]
    if len(ids) < spec.max_length or chunk_targets(spec.max_length) < 1:
        raise DataError(
            f"{corpus.name}: {len(text.ids)} tokens and a cap of {spec.tokens or 'none'} make no "
            f"full chunk of {spec.max_length}"
        )
    return chunk_windows(np.array(ids), n_ctx=spec.max_length, bos=added_bos(tokenizer))


def stride(spec: PerplexitySpec) -> int:
    """How far the window of a stream moves: half a window unless the suite says."""
    return spec.stride or max(1, spec.max_length // 2)
