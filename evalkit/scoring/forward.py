"""Windows through a model: batches by length, float32 log-softmax, smaller when memory ends."""

from __future__ import annotations

import gc
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from evalkit.errors import ScoringError
from evalkit.scoring.logit_rows import Measured, measure_logits
from evalkit.scoring.windows import WHOLE, Shard, TokenIds, Window, batch_size

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

PIECE = {"cpu": 2**20, "cuda": 2**26}
"""Logits taken to float32 at once, never all of them: 4 MiB, which stay in a CPU's cache (three
times as fast as 64 MiB there); 256 MiB on a GPU, where each piece costs a few kernel launches."""


@dataclass(frozen=True, eq=False)
class WindowScores:
    """What one forward pass says of a window's targets."""

    losses: NDArray[np.float32]
    """Nats, shape (targets,)."""
    top_ids: TokenIds
    """The likeliest token at the first `Window.n_tops` targets, the lowest id where several are;
    shape (n_tops,)."""
    top_probabilities: NDArray[np.float32]
    """Its probability, shape (n_tops,)."""


def score_windows(
    model: PreTrainedModel,
    windows: Sequence[Window],
    *,
    batch_tokens: int,
    longest_last: bool = False,
    shard: Shard = WHOLE,
) -> Iterator[list[tuple[int, WindowScores]]]:
    """The loss of every target of every window, and the likeliest tokens that are wanted.

    Args:
        model: a causal language model, on its device; left in eval mode.
        windows: in any order.
        batch_tokens: positions of a batch, padding included.
        longest_last: take the batches in the reverse order.
        shard: the batches to take; of the other windows nothing is yielded.

    Yields:
        Of each batch, in the order computed, its windows' indices and scores.

    Raises:
        ScoringError: a single window does not fit into memory.
    """
    model.eval()
    yield from measure_windows(
        windows,
        lambda batch: forward_losses(model, [windows[index] for index in batch]),
        batch_tokens=batch_tokens,
        longest_last=longest_last,
        shard=shard,
    )


def measure_windows(
    windows: Sequence[Window],
    measure: Callable[[Sequence[int]], Sequence[Measured]],
    *,
    batch_tokens: int,
    longest_last: bool = False,
    shard: Shard = WHOLE,
) -> Iterator[list[tuple[int, Measured]]]:
    """Measures every window, in batches by length, the longest first.

    Out of memory halves the batch, for the rest of the windows too.

    Args:
        windows: in any order.
        measure: gives one result for each window of a batch, which it is told by their indices.
            May be asked for a window again, after it ran out of memory.
        batch_tokens: positions of a batch, padding included.
        longest_last: take the batches in the reverse order.
        shard: the batches to take; of the other windows nothing is yielded.

    Yields:
        Of each batch, in the order computed, its windows' indices and results.

    Raises:
        ScoringError: a single window does not fit into memory.
    """
    lengths = [len(window.inputs) for window in windows]
    every = _batches(range(len(windows)), lengths, batch_tokens, longest_last=longest_last)
    batches = deque(itertools.islice(every, shard.index, None, shard.count))
    while batches:
        batch = batches.popleft()
        results = _try(measure, batch, lengths)
        if results is not None:
            yield list(zip(batch, results, strict=True))
            continue
        _free_memory()
        budget = lengths[batch[0]] * len(batch) // 2
        left = [*batch, *itertools.chain.from_iterable(batches)]
        batches = _batches(left, lengths, budget, longest_last=longest_last)


def _batches(
    indices: Iterable[int], lengths: Sequence[int], budget: int, *, longest_last: bool
) -> deque[list[int]]:
    """Which windows go together, each batch with its longest window first."""
    rest = sorted(indices, key=lambda index: -lengths[index])
    batches: deque[list[int]] = deque()
    while rest:
        candidates = rest[: max(1, budget // lengths[rest[0]])]
        size = batch_size([lengths[index] for index in candidates], budget)
        batches.append(rest[:size])
        rest = rest[size:]
    if longest_last:
        batches.reverse()
    return batches


def _try(
    measure: Callable[[Sequence[int]], Sequence[Measured]],
    batch: Sequence[int],
    lengths: Sequence[int],
) -> Sequence[Measured] | None:
    """The results of a batch, or None when it was too large for memory."""
    try:
        return measure(batch)
    except RuntimeError as error:
        if not _out_of_memory(error):
            raise
        if len(batch) == 1:
            raise ScoringError(
                f"out of memory on a single window of {lengths[batch[0]]} tokens; "
                f"set a smaller max_length ({_first_line(error)})"
            ) from error
    return None


def forward_losses(model: PreTrainedModel, batch: Sequence[Window]) -> list[WindowScores]:
    """One forward pass, right-padded, and the scores of each window's targets.

    Log-softmax in float32, a piece of the logits at a time.
    """
    import torch

    def losses(place: int, rows: slice, logits: torch.Tensor) -> WindowScores:
        window = batch[place]
        n_tops = max(0, min(window.n_tops, rows.stop) - rows.start)
        return _cross_entropy(logits, torch.from_numpy(window.targets[rows]), n_tops)

    return [_joined(pieces) for pieces in measure_logits([model], batch, losses)]


def _joined(pieces: Sequence[WindowScores]) -> WindowScores:
    return WindowScores(
        np.concatenate([piece.losses for piece in pieces]),
        np.concatenate([piece.top_ids for piece in pieces]),
        np.concatenate([piece.top_probabilities for piece in pieces]),
    )


def _cross_entropy(logits: torch.Tensor, targets: torch.Tensor, n_tops: int) -> WindowScores:
    """−log p of each target, and the first rows' tops; logits of shape (targets, vocabulary)."""
    import torch

    targets = targets.to(logits.device)
    piece = PIECE.get(logits.device.type, PIECE["cuda"])
    rows = max(1, piece // logits.shape[-1])
    losses, top_ids, top_probabilities = [], [targets[:0]], [logits.new_empty(0).float()]
    for first in range(0, len(targets), rows):
        exact = logits[first : first + rows].to(torch.float32, copy=True)
        wanted = max(0, n_tops - first)
        if wanted:
            top_ids.append(_argmax(exact[:wanted]))
        loss, total = _piece_losses(exact, targets[first : first + rows, None])
        losses.append(loss)
        if wanted:
            # The largest exponential is exp(0).
            top_probabilities.append(total[:wanted].reciprocal())
    return WindowScores(
        torch.cat(losses).cpu().numpy(),
        torch.cat(top_ids).cpu().numpy(),
        torch.cat(top_probabilities).cpu().numpy(),
    )


def _argmax(logits: torch.Tensor) -> torch.Tensor:
    """The column of each row's maximum, the first of equals; float32 logits."""
    import torch

    if logits.device.type == "cpu":
        # numpy's is vectorised, and seven times as fast as torch's on a CPU.
        return torch.from_numpy(logits.numpy().argmax(-1))
    return logits.argmax(-1)


def _piece_losses(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy as log Σ exp(x − max) + max − x[target], and that sum.

    Overwrites the float32 logits, shape (rows, vocabulary); targets are of shape (rows, 1).
    """
    peak = logits.amax(-1, keepdim=True)
    wanted = logits.gather(1, targets)
    total = logits.sub_(peak).exp_().sum(-1, keepdim=True)
    return (total.log() + (peak - wanted))[:, 0], total[:, 0]


def _out_of_memory(error: RuntimeError) -> bool:
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
