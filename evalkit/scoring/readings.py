"""Other readings of a perplexity's losses: bits per byte, per word, and what was counted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from evalkit.records import Corpus
from evalkit.scoring.layout import Layout
from evalkit.scoring.windows import Window

if TYPE_CHECKING:
    from evalkit.suite import PerplexitySpec


def _spans(windows: Sequence[Window]) -> Iterator[tuple[int, int, int]]:
    """(text, first, stop) of what was scored, windows side by side taken together."""
    text, first, stop = windows[0].text, windows[0].first, windows[0].stop
    for window in windows[1:]:
        if (window.text, window.first) != (text, stop):
            yield text, first, stop
            text, first = window.text, window.first
        stop = window.stop
    yield text, first, stop


def readings_of(
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
    word_perplexity = exp_or_none(nats / n_words) if n_words else None
    if word_perplexity is not None:
        readings["word_perplexity"] = word_perplexity
    return readings


def exp_or_none(nats: float) -> float | None:
    """The exponential, None where it is too large for a float."""
    try:
        return math.exp(nats)
    except OverflowError:
        return None
