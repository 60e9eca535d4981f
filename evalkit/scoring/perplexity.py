"""Perplexity by three protocols, each named after whom it agrees with."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from evalkit.errors import ScoringError
from evalkit.records import Corpus, OnProgress, Progress, Score
from evalkit.scoring.forward import WindowScores, score_windows
from evalkit.scoring.kept_losses import kept_losses, with_tops
from evalkit.scoring.layout import Layout, plan_layout, stride
from evalkit.scoring.pairs import plan_pairs, reads_pairs
from evalkit.scoring.tokens import tokenizer_digest
from evalkit.scoring.windows import Window
from evalkit.statistics.clusters import ratio_standard_error

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from evalkit.suite import PerplexitySpec


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
    plan = plan_pairs if reads_pairs(model) else plan_layout
    layout = with_tops(
        plan(tokenizer, corpus, spec, max_tokens_per_document, cache), spec.token_losses
    )
    check_fit(model, layout, spec.max_length)
    started = time.perf_counter()
    scores = _all_scores(
        model,
        layout,
        batch_tokens=spec.batch_tokens,
        longest_last=longest_last,
        on_tokens=lambda done: on_progress(Progress(job, metric, done, layout.n_tokens, "tokens")),
    )
    seconds = time.perf_counter() - started
    sums = np.zeros(len(layout.unit_ids))
    counts = np.zeros(len(layout.unit_ids))
    for window, scored in zip(layout.windows, scores, strict=True):
        sums[window.unit] += scored.losses.sum(dtype=np.float64)
        counts[window.unit] += len(scored.losses)
    value = _exp(sums.sum() / counts.sum())
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
        extra=_readings(layout, corpus, spec, float(sums.sum()), seconds),
        comparison=comparison(tokenizer, corpus, spec, max_tokens_per_document),
        token_losses=kept_losses(tokenizer, layout, scores, spec.token_losses),
    )


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


def _all_scores(
    model: PreTrainedModel,
    layout: Layout,
    *,
    batch_tokens: int,
    longest_last: bool,
    on_tokens: Callable[[int], None],
) -> list[WindowScores]:
    """The scores of every window, in the layout's order."""
    scores: dict[int, WindowScores] = {}
    done = 0
    on_tokens(0)
    batches = score_windows(
        model, layout.windows, batch_tokens=batch_tokens, longest_last=longest_last
    )
    for index, scored in batches:
        loss = scored.losses
        if not np.isfinite(loss).all():
            window = layout.windows[index]
            at = int(np.flatnonzero(~np.isfinite(loss))[0])
            raise ScoringError(
                f"{layout.unit_ids[window.unit]}: the loss of token {window.first + at} is "
                f"{loss[at]}, not a finite number"
            )
        scores[index] = scored
        done += len(loss)
        on_tokens(done)
    return [scores[index] for index in range(len(layout.windows))]


def _spans(windows: Sequence[Window]) -> Iterator[tuple[int, int, int]]:
    """(text, first, stop) of what was scored, windows side by side taken together."""
    text, first, stop = windows[0].text, windows[0].first, windows[0].stop
    for window in windows[1:]:
        if (window.text, window.first) != (text, stop):
            yield text, first, stop
            text, first = window.text, window.first
        stop = window.stop
    yield text, first, stop


def _readings(
    layout: Layout, corpus: Corpus, spec: PerplexitySpec, nats: float, seconds: float
) -> dict[str, float]:
    """Other readings of the same losses. What is not finite is left out, never a zero."""
    spans = [layout.texts[text].span(first, stop) for text, first, stop in _spans(layout.windows)]
    n_bytes = sum(len(span.encode()) for span in spans)
    n_words = sum(len(span.split()) for span in spans)
    documents = spec.protocol == "documents"
    readings: dict[str, float] = {
        "n_tokens": layout.n_tokens,
        "n_bytes": n_bytes,
        "n_words": n_words,
        "n_documents": len(layout.unit_ids) if documents else len(corpus.documents),
        "tokens_per_second": layout.n_tokens / max(seconds, 1e-9),
    }
    if n_bytes:
        readings["bits_per_byte"] = nats / math.log(2) / n_bytes
    word_perplexity = _exp(nats / n_words) if n_words else None
    if word_perplexity is not None:
        readings["word_perplexity"] = word_perplexity
    return readings


def _exp(nats: float) -> float | None:
    try:
        return math.exp(nats)
    except OverflowError:
        return None
