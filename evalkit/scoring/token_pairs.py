"""Two models' predictions of the same tokens, row by row in float64 over the whole vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from evalkit.records import Float64s
from evalkit.scoring.windows import TokenIds

if TYPE_CHECKING:
    import torch

PIECE = {"cpu": 2**18, "cuda": 2**25}
"""Logits taken to float64 at once: 2 MiB, which stay in a CPU's cache; 256 MiB on a GPU."""


@dataclass(frozen=True)
class KnownRows:
    """What is known of a reference's predictions."""

    below: torch.Tensor
    """ln p up to a constant a row, (rows, vocabulary), float64; −inf is no probability."""
    spread: torch.Tensor
    """How far each row's values can be off, nats, (rows,)."""
    tops: torch.Tensor
    """The likeliest token, (rows,); the first of several."""
    losses: torch.Tensor
    """−ln p of the token that came, (rows,), float64."""


@dataclass(frozen=True)
class TokenPairs:
    """What comparing two models at each scored position of a window gave; shapes (targets,)."""

    kl: Float64s
    """KL(reference ‖ variant), nats."""
    bound: Float64s
    """How far `kl` can be off for the reference's rounding."""
    same_top: Float64s
    """1 where both find the same token likeliest, 0 where not."""
    losses: Float64s
    """The variant's −ln p of the token that came."""
    reference_losses: Float64s


def joined(pieces: Sequence[TokenPairs]) -> TokenPairs:
    """What pieces of one window gave, in the order of its targets."""
    names = (field.name for field in fields(TokenPairs))
    return TokenPairs(
        *(np.concatenate([getattr(piece, name) for piece in pieces]) for name in names)
    )


def known_rows(logits: torch.Tensor, targets: TokenIds) -> KnownRows:
    """A reference's predictions from its logits, not rounded.

    Args:
        logits: (rows, vocabulary), float64.
        targets: the tokens that came, (rows,).
    """
    import torch

    below = logits - logits.amax(-1, keepdim=True)
    wanted = torch.from_numpy(targets).to(logits.device)[:, None]
    losses = below.logsumexp(-1) - below.gather(1, wanted)[:, 0]
    return KnownRows(below, torch.zeros_like(losses), logits.argmax(-1), losses)


def float64_pieces(logits: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Rows in float64, a few at a time, each piece with its place."""
    step = max(1, PIECE.get(logits.device.type, PIECE["cuda"]) // logits.shape[-1])
    for start in range(0, len(logits), step):
        rows = slice(start, min(start + step, len(logits)))
        yield rows, logits[rows].double()


def compare_rows(
    logits: torch.Tensor,
    targets: TokenIds,
    reference: Callable[[slice], KnownRows],
    vocabulary: int,
) -> TokenPairs:
    """Compares a variant's logits for one window with the reference.

    Args:
        logits: (targets, at least `vocabulary`), in any dtype.
        targets: the tokens that came.
        reference: gives its rows.
        vocabulary: compare so many logits; what lies behind is padding, left out on both sides.
    """
    import torch

    columns: list[torch.Tensor] = []
    for rows, exact in float64_pieces(logits):
        known = reference(rows)
        ours = known_rows(exact, targets[rows])
        kl, bound = _divergence(
            known.below[:, :vocabulary], ours.below[:, :vocabulary], known.spread
        )
        same = (ours.tops == known.tops).double()
        columns.append(torch.stack([kl, bound, same, ours.losses, known.losses]))
    table: Float64s = torch.cat(columns, dim=1).cpu().numpy()
    return TokenPairs(*np.ascontiguousarray(table))


def _divergence(
    known: torch.Tensor, ours: torch.Tensor, spread: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """KL of each row, and its bound (see `log_probs`); both sides up to a constant a row."""
    import torch

    weights = known.exp()
    total = weights.sum(-1)
    apart = (known - ours).sub_((total.log() - ours.logsumexp(-1))[:, None])
    apart = torch.where(weights > 0, apart, 0.0)
    weights.div_(total[:, None])
    kl = (weights * apart).sum(-1)
    size = (weights * apart.abs_()).sum(-1)
    return kl, torch.expm1(2 * spread) * size + spread**2 / 2
