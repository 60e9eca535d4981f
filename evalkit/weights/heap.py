"""Memory that nothing needs any more, and what keeps it: the heap, and files mapped whole."""

from __future__ import annotations

import contextlib
import ctypes
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def trim_heap() -> None:
    """Gives the C library's free memory back to the system; a millisecond."""
    # Only glibc has it; elsewhere there is no such library, or no such function.
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def trim_after_each_layer(tuner: Any) -> None:
    """Has peft's merge give each layer's expanded weights back before it takes the next one.

    They are pieces of the heap of all sizes: together they would be as large as the model.
    """
    replace = tuner._replace_module

    def replace_and_trim(*arguments: Any) -> None:
        replace(*arguments)
        trim_heap()

    tuner._replace_module = replace_and_trim


def leave_file(model: torch.nn.Module) -> None:
    """Copies what a quantisation left as it was in the file, which is mapped into memory whole.

    One embedding that is still read from it would keep all of its 16-bit weights in memory.
    """
    import torch

    for parameter in model.parameters():
        plain = type(parameter.data) is torch.Tensor and parameter.is_floating_point()
        if plain and parameter.device.type == "cpu":
            parameter.data = parameter.data.clone()
