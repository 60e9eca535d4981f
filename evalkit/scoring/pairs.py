"""Encoder–decoder models: the loss of a target given its source, and greedy answers to a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from evalkit.errors import DataError
from evalkit.records import Corpus, Document
from evalkit.scoring.kept_tokens import kept_tokens
from evalkit.scoring.layout import Layout
from evalkit.scoring.tokens import TokenText, tokenize
from evalkit.scoring.windows import Window, fair_share

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from evalkit.suite import PerplexitySpec


def reads_pairs(model: PreTrainedModel) -> bool:
    """Whether a model has an encoder for the source and a decoder for the target."""
    return bool(getattr(model.config, "is_encoder_decoder", False))


def plan_pairs(
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    spec: PerplexitySpec,
    max_tokens_per_document: int | None,
    cache: Path | None = None,
) -> Layout:
    """Lays out prompts as sources and completions as targets, one window for each document.

    Both are tokenised as the tokenizer does it by itself; where it ends a text with EOS, the EOS of
    the target is scored as the model was trained on it.

    Raises:
        DataError: not `protocol: documents` with `score_on: completion`, or a pair is not whole or
            longer than `max_length`.
    """
    if spec.protocol != "documents" or spec.score_on != "completion":
        raise DataError(
            f"{corpus.name}: an encoder–decoder model is scored on targets given their sources: "
            "say 'protocol: documents' and 'score_on: completion', and give the data's columns "
            "'prompt' and 'completion'"
        )
    texts = kept_tokens(
        tokenizer,
        corpus,
        "prompts and completions",
        lambda: [text for document in corpus.documents for text in _pair(tokenizer, document)],
        cache,
    )
    pairs = list(zip(corpus.documents, texts[::2], texts[1::2], strict=True))
    for document, source, target in pairs:
        _check_length(document, source, target, spec.max_length)
    lengths = [min(len(text.ids), max_tokens_per_document or len(text.ids)) for *_, text in pairs]
    cap = fair_share(lengths, spec.tokens or sum(lengths))
    if cap < 1:
        raise DataError(f"{corpus.name}: no tokens to score in {corpus.origin}")
    windows = tuple(
        Window(
            np.array(source.ids), np.array(text.ids[: min(lengths[index], cap)]), index, 0, index
        )
        for index, (_, source, text) in enumerate(pairs)
    )
    return Layout(
        windows,
        tuple(text for *_, text in pairs),
        tuple(document.id for document, *_ in pairs),
        tuple(document.cluster or document.id for document, *_ in pairs),
    )


def _pair(tokenizer: PreTrainedTokenizerBase, document: Document) -> tuple[TokenText, TokenText]:
    if document.prompt is None:
        raise DataError(
            f"document {document.id}: an encoder–decoder model needs the data's columns "
            "'prompt' and 'completion'"
        )
    if not document.text:
        raise DataError(f"document {document.id}: its completion is empty")
    source = tokenize(tokenizer, document.prompt, special=True)
    target = tokenize(tokenizer, document.text, special=True)
    return source, target


def _check_length(
    document: Document, source: TokenText, target: TokenText, max_length: int
) -> None:
    for what, text in (("prompt", source), ("completion", target)):
        if not 0 < len(text.ids) <= max_length:
            raise DataError(
                f"document {document.id}: its {what} has {len(text.ids)} tokens, where max_length "
                f"allows 1 to {max_length}"
            )


def pair_logits(model: PreTrainedModel, batch: Sequence[Window]) -> list[torch.Tensor]:
    """One forward pass over sources and targets: [targets, vocabulary] for each window.

    Both are padded on the right; the decoder reads the targets moved on by one, behind the model's
    own start token.
    """
    import torch

    device = model.get_input_embeddings().weight.device
    sources, mask = _padded([window.inputs for window in batch])
    start = model.config.decoder_start_token_id
    read, _ = _padded([np.append(start, window.targets[:-1]) for window in batch])
    with torch.no_grad():
        logits = model(
            input_ids=sources.to(device),
            attention_mask=mask.to(device),
            decoder_input_ids=read.to(device),
            use_cache=False,
        ).logits
    return [logits[row, : len(window.targets)] for row, window in enumerate(batch)]


def greedy_answer(
    model: PreTrainedModel, ids: list[int], *, stops: frozenset[int], limit: int
) -> list[int]:
    """The likeliest next token of the decoder, again and again; see `samples.greedy_tokens`."""
    import torch

    device = model.get_input_embeddings().weight.device
    source = torch.tensor([ids], device=device)
    read, new = [int(model.config.decoder_start_token_id)], list[int]()
    with torch.no_grad():
        encoded = model.get_encoder()(input_ids=source)
        while len(new) < limit:
            logits = model(
                input_ids=None,
                encoder_outputs=encoded,
                decoder_input_ids=torch.tensor([read + new], device=device),
                use_cache=False,
            ).logits
            new.append(int(logits[0, -1].argmax()))
            if new[-1] in stops:
                break
    return new


def _padded(rows: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    ids = torch.zeros((len(rows), max(map(len, rows))), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.from_numpy(np.asarray(row, dtype=np.int64))
        mask[index, : len(row)] = 1
    return ids, mask
