"""Perplexity by three protocols, each named after whom it agrees with."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from evalkit.errors import ScoringError
from evalkit.records import Corpus, OnProgress, Progress, Score
from evalkit.scoring.forward import WindowScores, score_windows
from evalkit.scoring.kept_losses import kept_losses, with_tops
from evalkit.scoring.layout import Layout, plan_layout, stride
from evalkit.scoring.pairs import plan_pairs, reads_pairs
from evalkit.scoring.readings import exp_or_none, readings_of
from evalkit.scoring.tokens import tokenizer_digest
from evalkit.scoring.windows import WHOLE, Shard
from evalkit.statistics.clusters import ratio_standard_error

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from evalkit.suite import PerplexitySpec


@dataclass(frozen=True, eq=False)
class PerplexityPart:
    """What a share of the batches gave."""

    scores: Mapping[int, WindowScores]
    """By the window's place in the layout."""
    seconds: float
    """That its forward passes took."""
    pairs: bool
    """Whether the model reads pairs: it lays out a corpus in another way."""


def score_perplexity(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    spec: PerplexitySpec,
    *,
    metric: str,
    max_tokens_per_document: int | None,
    job: str,
    on_progress: OnProgress,
    longest_last: bool = False,
    cache: Path | None = None,
) -> Score:
    """Score a corpus: natural log, log-softmax in float32, sums in float64.

    Args:
        model: a language model on its device; left in eval mode. One with an encoder and a decoder
            is scored on completions given their prompts.
        tokenizer: the model's.
        corpus: the documents.
        spec: protocol, lengths, caps.
        metric: the score's name, 'perplexity' or 'perplexity/NAME'.
        max_tokens_per_document: cap on the scored tokens of each document (`documents` only).
        job: the job's name, for progress.
        on_progress: told the tokens scored, after every batch.
        longest_last: take the batches in the reverse order.
        cache: where tokenised corpora are kept; None tokenises.

    Returns:
        The score, with a sum (nats) and a count (tokens) for each document or window.

    Raises:
        DataError: the corpus cannot be scored this way (no full chunk, no completion, ...).
        ScoringError: a loss that is not finite, or a window that fits neither memory nor model.
    """
    layout = _layout(
        tokenizer, corpus, spec, max_tokens_per_document, cache, pairs=reads_pairs(model)
    )
    part = _measure(
        model,
        layout,
        spec,
        WHOLE,
        longest_last=longest_last,
        on_progress=lambda done, total: on_progress(Progress(job, metric, done, total, "tokens")),
    )
    return _score([part], layout, tokenizer, corpus, spec, metric, max_tokens_per_document)


def measure_perplexity_part(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    spec: PerplexitySpec,
    *,
    shard: Shard,
    metric: str,
    max_tokens_per_document: int | None,
    job: str,
    on_progress: OnProgress,
    longest_last: bool = False,
    cache: Path | None = None,
) -> PerplexityPart:
    """Measures a share of the batches; arguments and errors as for `score_perplexity`."""
    layout = _layout(
        tokenizer, corpus, spec, max_tokens_per_document, cache, pairs=reads_pairs(model)
    )
    return _measure(
        model,
        layout,
        spec,
        shard,
        longest_last=longest_last,
        on_progress=lambda done, total: on_progress(Progress(job, metric, done, total, "tokens")),
    )


def join_perplexity_parts(
    parts: Sequence[PerplexityPart],
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    spec: PerplexitySpec,
    *,
    metric: str,
    max_tokens_per_document: int | None,
    cache: Path | None = None,
) -> Score:
    """The score that all batches together give: that of `score_perplexity`, bit for bit.

    Args:
        parts: of all shards.
        tokenizer: the model's.
        corpus: the documents.
        spec: as the parts were measured by.
        metric: the score's name.
        max_tokens_per_document: as the parts were measured with.
        cache: where tokenised corpora are kept; None tokenises.

    Raises:
        ScoringError: a window is missing, or the score is not finite.
    """
    layout = _layout(tokenizer, corpus, spec, max_tokens_per_document, cache, pairs=parts[0].pairs)
    return _score(parts, layout, tokenizer, corpus, spec, metric, max_tokens_per_document)


def comparison(
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    spec: PerplexitySpec,
    max_tokens_per_document: int | None,
) -> dict[str, str]:
    """What two perplexities must share to be compared, by name."""
    shared = {
        "data": corpus.digest,
        "protocol": spec.protocol,
        "max_length": str(spec.max_length),
        "tokens": str(spec.tokens or "all"),
        "score_on": spec.score_on,
        "tokenizer": tokenizer_digest(tokenizer),
    }
    if spec.protocol == "documents":
        shared["max_tokens_per_document"] = str(max_tokens_per_document or "all")
    if spec.protocol == "stream":
        shared["stride"] = str(stride(spec))
    if any(document.messages is not None for document in corpus.documents):
        shared["chat_template"] = str(tokenizer.chat_template)
    return shared


def check_fit(model: PreTrainedModel, layout: Layout, max_length: int) -> None:
    """Refuse what would end in an index error, or in numbers from positions never trained."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    longest = max(len(window.inputs) for window in layout.windows)
    if positions is not None and longest > positions:
        raise ScoringError(
            f"max_length {max_length} is more than the model's {positions} positions"
        )
    rows = model.get_input_embeddings().weight.shape[0]
    largest = max(int(window.inputs.max()) for window in layout.windows)
    largest = max(largest, *(int(window.targets.max()) for window in layout.windows))
    if largest >= rows:
        raise ScoringError(
            f"the tokenizer does not belong to the model: token {largest} of {rows} embeddings"
        )


# ----------------------------------------------------------------------------- results


def _layout(
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    spec: PerplexitySpec,
    max_tokens_per_document: int | None,
    cache: Path | None,
    *,
    pairs: bool,
) -> Layout:
    plan = plan_pairs if pairs else plan_layout
    layout = plan(tokenizer, corpus, spec, max_tokens_per_document, cache)
    return with_tops(layout, spec.token_losses)


def _score(
    parts: Sequence[PerplexityPart],
    layout: Layout,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    spec: PerplexitySpec,
    metric: str,
    max_tokens_per_document: int | None,
) -> Score:
    found = {index: scored for part in parts for index, scored in part.scores.items()}
    if len(found) != len(layout.windows):
        raise ScoringError(f"{metric}: {len(found)} of {len(layout.windows)} windows were scored")
    scores = [found[index] for index in range(len(layout.windows))]
    seconds = sum(part.seconds for part in parts)
    sums = np.zeros(len(layout.unit_ids))
    counts = np.zeros(len(layout.unit_ids))
    for window, scored in zip(layout.windows, scores, strict=True):
        sums[window.unit] += scored.losses.sum(dtype=np.float64)
        counts[window.unit] += len(scored.losses)
    value = exp_or_none(sums.sum() / counts.sum())
    if value is None:
        raise ScoringError(f"{metric}: the mean loss is {sums.sum() / counts.sum():.1f} nats")
    relative = ratio_standard_error(sums, counts, layout.clusters)
    return Score(
        metric=metric,
        kind="perplexity",
        value=value,
        stderr=None if relative is None else value * relative,
        unit="ppl/token",
        higher_is_better=False,
        unit_ids=layout.unit_ids,
        clusters=layout.clusters,
        sums=sums,
        counts=counts,
        extra=readings_of(layout, corpus, spec, float(sums.sum()), seconds),
        comparison=comparison(tokenizer, corpus, spec, max_tokens_per_document),
        token_losses=kept_losses(tokenizer, layout, scores, spec.token_losses),
    )


def _measure(
    model: PreTrainedModel,
    layout: Layout,
    spec: PerplexitySpec,
    shard: Shard,
    *,
    longest_last: bool,
    on_progress: Callable[[int, int], None],
) -> PerplexityPart:
    """The scores of the shard's windows; told of tokens done, and how many there are in all."""
    check_fit(model, layout, spec.max_length)
    started = time.perf_counter()
    scores: dict[int, WindowScores] = {}
    done, total = 0, layout.n_tokens // shard.count
    on_progress(0, total)
    batches = score_windows(
        model,
        layout.windows,
        batch_tokens=spec.batch_tokens,
        longest_last=longest_last,
        shard=shard,
    )
    for batch in batches:
        for index, scored in batch:
            _check_finite(layout, index, scored.losses)
            scores[index] = scored
            done += len(scored.losses)
        on_progress(done, max(done, total))
    return PerplexityPart(scores, time.perf_counter() - started, reads_pairs(model))


def _check_finite(layout: Layout, index: int, losses: NDArray[np.float32]) -> None:
    if not np.isfinite(losses).all():
        window = layout.windows[index]
        at = int(np.flatnonzero(~np.isfinite(losses))[0])
        raise ScoringError(
            f"{layout.unit_ids[window.unit]}: the loss of token {window.first + at} is "
            f"{losses[at]}, not a finite number"
        )
