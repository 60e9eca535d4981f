"""The three perplexity protocols as windows over token ids. Pure: no model, no tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evalkit.errors import DataError

TokenIds = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Window:
    """One row of a forward pass, of which the last `len(targets)` positions are scored."""

    inputs: TokenIds
    """What the model reads; at least as long as `targets`."""
    targets: TokenIds
    """The last input position predicts the last of these, and so on backwards."""
    text: int
    """Which tokenised text the targets are from."""
    first: int
    """Where the targets begin in that text's tokens."""
    unit: int
    """Which unit of the score the losses are added to."""
    n_tops: int = 0
    """For how many of the first targets the likeliest token is wanted too."""

    @property
    def stop(self) -> int:
        """Where the targets end in their text's tokens."""
        return self.first + len(self.targets)


@dataclass(frozen=True)
class Shard:
    """Which of all batches are measured: every `count`-th, beginning with number `index`.

    Whole batches, so that each is what it is when all are measured in one place, bit for bit.
    """

    index: int
    count: int


WHOLE = Shard(0, 1)


@dataclass(frozen=True)
class Place:
    """Which text and which unit a document's windows belong to."""

    text: int
    unit: int


def document_windows(
    ids: TokenIds, place: Place, *, prefix: int, max_length: int, scored_from: int = 0
) -> Iterator[Window]:
    """Windows in which each token of one document is predicted exactly once.

    The first window has the prefix token before it. Each further one continues where the last
    ended, with one token of context; the last is filled up from behind to `max_length`. This is
    what lm-eval's `get_rolling_token_windows` and `make_disjoint_window` do with `context_len=1`.

    Args:
        ids: the document's tokens, no special tokens added, shape (n,).
        place: its text and unit.
        prefix: the token before it: BOS, else EOS.
        max_length: the longest input.
        scored_from: tokens before this one are context only.
    """
    begin = 0
    while begin < len(ids):
        end = min(begin + max_length, len(ids))
        head = max(0, end - max_length)
        context = ids[head - 1 : begin] if begin else np.array([prefix], dtype=np.int64)
        first = max(begin, scored_from)
        if first < end:
            inputs = np.concatenate([context, ids[begin : end - 1]])
            yield Window(inputs, ids[first:end], place.text, first, place.unit)
        begin = end


def stream_windows(ids: TokenIds, *, max_length: int, stride: int) -> Iterator[Window]:
    """A window of `max_length` tokens moved on by `stride`; each scores what none before it did.

    As the fixed-length recipe of the Transformers documentation moves and masks its labels. The
    first token of the stream has nothing before it and is not scored; with `stride == max_length`
    the same holds for the first token of every window.

    Args:
        ids: the whole stream, shape (n,).
        max_length: tokens a window holds, targets included.
        stride: how far it moves.

    Raises:
        DataError: a stride that would leave tokens out, or not move.
    """
    if not 1 <= stride <= max_length:
        raise DataError(f"stride {stride}: it must be between 1 and max_length ({max_length})")
    unit = scored = 0
    for begin in range(0, len(ids), stride):
        end = min(begin + max_length, len(ids))
        first = max(scored, begin + 1)
        if first < end:
            yield Window(ids[begin : end - 1], ids[first:end], 0, first, unit)
            unit += 1
        scored = end
        if end == len(ids):
            return


def chunk_windows(ids: TokenIds, *, n_ctx: int, bos: int | None) -> Iterator[Window]:
    """Windows of `n_ctx` tokens side by side, the second half of each scored, the tail dropped.

    The rule of llama.cpp's `llama-perplexity`: positions `n_ctx/2` to `n_ctx − 2` predict the
    token after them, so a chunk has `n_ctx/2 − 1` targets.

    Args:
        ids: the whole text as the tokenizer gives it, special tokens included, shape (n,).
        n_ctx: tokens a chunk holds.
        bos: the token that overwrites the first of each chunk, None where the tokenizer adds none.
    """
    for unit, begin in enumerate(range(0, len(ids) - n_ctx + 1, n_ctx)):
        end = begin + n_ctx
        first = begin + n_ctx // 2 + 1
        inputs = ids[begin : end - 1].copy()
        if bos is not None:
            inputs[0] = bos
        yield Window(inputs, ids[first:end], 0, first, unit)


def chunk_targets(n_ctx: int) -> int:
    """How many tokens one chunk scores."""
    return n_ctx - 1 - n_ctx // 2


def fair_share(lengths: Sequence[int], total: int) -> int:
    """The largest cap L with Σ min(length, L) ≤ total; the longest length where all fits."""
    rest = total
    ordered = sorted(lengths)
    for index, length in enumerate(ordered):
        left = len(ordered) - index
        if length * left > rest:
            return rest // left
        rest -= length
    return ordered[-1] if ordered else 0


def batch_size(lengths: Sequence[int], budget: int) -> int:
    """How many of the next windows, longest first, go into one batch.

    A batch ends where its budget does; also, once it is a quarter full, at a window so short that
    more than 15 % of its row would be padding.

    Args:
        lengths: input lengths, in falling order, at least one.
        budget: positions a batch may have, padding included; one window always goes.
    """
    longest = lengths[0]
    size = 1
    while size < len(lengths) and (size + 1) * longest <= budget:
        if lengths[size] < 0.85 * longest and size * longest >= budget // 4:
            break
        size += 1
    return size
