"""The logits of a batch's targets, some rows at a time: those of a whole batch are never there.

A model's body is asked once for the whole batch, and what follows it (the output layer, and what
some models do to its results) for pieces of what the body said of the targets. Of padding and of
what is context only, two positions a row reach the output layer at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from evalkit.scoring.pairs import pair_logits, reads_pairs
from evalkit.scoring.windows import Window

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Measured = TypeVar("Measured")

LOGIT_ROWS = 512
"""Rows of logits at once: in 16 bits, 48 MiB over a vocabulary of 49,152. On a CPU, in bfloat16 and
in float32, they take no longer than 4,096 at once; below 256 they do in float32."""

_Piece = list[tuple[int, slice]]
"""Windows' places in the batch, each with some of its targets."""


def measure_logits(
    models: Sequence[PreTrainedModel],
    batch: Sequence[Window],
    measure: Callable[..., Measured],
) -> list[list[Measured]]:
    """One forward pass of each model, right-padded, and what is measured of the targets' logits.

    Args:
        models: language models, each on its device; one, or several that read the same tokens.
        batch: the windows.
        measure: called with a window's place in the batch, the slice of its targets, and of each
            model their logits (rows, vocabulary), in its dtype, on its device. It must keep none.

    Returns:
        For each window the results, in the order of its targets.
    """
    found: list[list[Measured]] = [[] for _ in batch]
    passes = [_forward(model, batch) for model in models]
    for piece in _pieces([len(window.targets) for window in batch]):
        every = [done.logits(piece) for done in passes]
        for (place, rows), *logits in zip(piece, *every, strict=True):
            found[place].append(measure(place, rows, *logits))
        # Not to be there while the next piece is computed.
        del every, logits
    return found


def _pieces(lengths: Sequence[int]) -> Iterator[_Piece]:
    """`LOGIT_ROWS` targets each, in order, across windows' borders; the same for every model."""
    piece: _Piece = []
    room = LOGIT_ROWS
    for place, length in enumerate(lengths):
        start = 0
        while start < length:
            rows = slice(start, min(length, start + room))
            piece.append((place, rows))
            room -= rows.stop - start
            start = rows.stop
            if not room:
                yield piece
                piece, room = [], LOGIT_ROWS
    if piece:
        yield piece


@dataclass(frozen=True, eq=False)
class _Pass:
    """What one forward pass left."""

    rows: Sequence[torch.Tensor]
    """Of each window the rows of its targets: logits, or what the output layer reads."""
    finish: Callable[[torch.Tensor], torch.Tensor] | None
    """Makes logits of rows; None where they are logits."""

    def logits(self, piece: _Piece) -> Sequence[torch.Tensor]:
        """Of each part of a piece, (rows, vocabulary)."""
        import torch

        parts = [self.rows[place][rows] for place, rows in piece]
        if self.finish is None:
            return parts
        # One tensor in one piece of memory: on a CPU, a bfloat16 product with a slice of another
        # takes many times as long.
        logits = self.finish(torch.cat(parts))
        return torch.split(logits, [len(part) for part in parts])


def _forward(model: Any, batch: Sequence[Window]) -> _Pass:
    import torch

    if reads_pairs(model):
        return _Pass(pair_logits(model, batch), None)
    device = model.get_input_embeddings().weight.device
    ids, mask = _padded(batch)
    ids = ids.to(device)
    inputs = {"attention_mask": None if mask is None else mask.to(device), "use_cache": False}
    body: Any = body_of(model)
    outputs: list[Any] = []

    def last_positions(*args: Any, **kwargs: Any) -> Any:
        """Keeps the body's result, and gives of it the last two positions alone.

        Not one: in bfloat16 on a CPU a product with a single row takes as long as with 500.
        """
        output = forward(*args, **kwargs)
        outputs.append(output)
        return _with_hidden(output, output.last_hidden_state[:, -2:].contiguous())

    # Not inference_mode: what a layer caches in its first forward must still be usable by a merge,
    # or by training, afterwards.
    with torch.no_grad():
        if body is None:
            return _Pass(_targets(batch, model(input_ids=ids, **inputs).logits), None)
        forward = body.forward
        with _replaced(body, last_positions):
            logits = model(input_ids=ids, **inputs).logits
    if not outputs:  # it asks parts of its body itself
        return _Pass(_targets(batch, logits), None)

    def finish(rows: torch.Tensor) -> torch.Tensor:
        with (
            torch.no_grad(),
            _replaced(body, lambda *_, **__: _with_hidden(outputs[0], rows[None])),
        ):
            finished: torch.Tensor = model(input_ids=ids[:1, :1], use_cache=False).logits
        return finished[0]

    return _Pass(_targets(batch, outputs[0].last_hidden_state), finish)


def body_of(model: Any) -> Any | None:
    """The part of a model whose last hidden states are all that its logits are made of.

    None where that is not known: of a model with code of its own, with an encoder, or without such
    a part.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    if reads_pairs(inner) or not type(inner).__module__.startswith("transformers."):
        return None
    return None if inner.base_model is inner else inner.base_model


@contextmanager
def _replaced(module: Any, forward: Callable[..., Any]) -> Iterator[None]:
    """Lets a module do something else."""
    before = vars(module).get("forward")  # accelerate puts one there
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before


def _with_hidden(output: Any, hidden: torch.Tensor) -> Any:
    return type(output)(**{**output, "last_hidden_state": hidden})


def _targets(batch: Sequence[Window], values: torch.Tensor) -> list[torch.Tensor]:
    """Of each row, (batch, positions, ...), what belongs to the window's targets; views."""
    return [
        values[row, len(window.inputs) - len(window.targets) : len(window.inputs)]
        for row, window in enumerate(batch)
    ]


def _padded(batch: Sequence[Window]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Inputs of shape (batch, longest), and their mask, None where nothing is padded."""
    import torch

    lengths = [len(window.inputs) for window in batch]
    ids = torch.zeros((len(batch), max(lengths)), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, window in enumerate(batch):
        ids[row, : lengths[row]] = torch.from_numpy(window.inputs)
        mask[row, : lengths[row]] = 1
    return ids, mask if min(lengths) < max(lengths) else None
