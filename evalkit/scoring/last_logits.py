"""The logits of each row's last positions: the output layer is not computed for the others."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def takes_kept(model: Any) -> bool:
    """Whether a model can be asked for the logits of its last positions alone."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    asked = "logits_to_keep" in inspect.signature(inner.forward).parameters
    return asked and model.get_output_embeddings() is not None


def last_logits(model: Any, ids: torch.Tensor, kept: int, **inputs: Any) -> torch.Tensor:
    """One forward pass without gradients, and the logits of the last positions.

    Args:
        model: a causal language model for which `takes_kept` holds.
        ids: its inputs, on its device; shape (rows, positions).
        kept: how many positions at the end, from 1.
        inputs: what else the model is given.

    Returns:
        Shape (rows, kept, vocabulary), in the model's dtype.
    """
    import torch

    hook = model.get_output_embeddings().register_forward_pre_hook(_contiguous)
    try:
        with torch.no_grad():
            logits: torch.Tensor = model(input_ids=ids, logits_to_keep=kept, **inputs).logits
    finally:
        hook.remove()
    return logits


def _contiguous(_: Any, hidden: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """The end of each row in one piece.

    On a CPU, a bfloat16 product with a slice of a tensor takes many times as long.
    """
    return tuple(part.contiguous() for part in hidden)
