"""Memory that nothing needs any more, and what keeps it: the heap, and files mapped whole."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def trim_heap() -> None:
    """Gives the C library's free memory back to the system; a millisecond."""
    # Only glibc has it; elsewhere there is no such library, or no such function.
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


class _Trimmer:
    """Trims the heap whenever so many weights have gone by: each time would take seconds."""

    def __init__(self) -> None:
        self._weights = 0

    def count(self, weights: int) -> None:
        self._weights += weights
        if self._weights >= _WEIGHTS:
            trim_heap()
            self._weights = 0


_WEIGHTS = 2**22
"""16 MiB of them in float32; bitsandbytes makes indices of 8 bytes for each."""


def trim_between_layers(tuner: Any) -> None:
    """Has peft's merge give layers' expanded weights back before it takes many more.

    They are pieces of the heap of all sizes: together they would be as large as the model.
    """
    replace, trimmer = tuner._replace_module, _Trimmer()

    def replace_and_trim(parent: Any, name: str, merged: Any, layer: Any) -> None:
        replace(parent, name, merged, layer)
        trimmer.count(sum(parameter.numel() for parameter in merged.parameters()))

    tuner._replace_module = replace_and_trim


@contextlib.contextmanager
def trim_between_quantizations() -> Iterator[None]:
    """Has what bitsandbytes needs to quantise layers given back before it takes many more.

    As in a merge: left on the heap, it adds up to nearly the size of the model in 16 bits.
    """
    from transformers.integrations.bitsandbytes import Bnb4bitQuantize, Bnb8bitQuantize

    kinds, trimmer = (Bnb4bitQuantize, Bnb8bitQuantize), _Trimmer()
    originals = [kind.convert for kind in kinds]

    def trimming(convert: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(convert)
        def convert_and_trim(operation: Any, weights: Any, **named: Any) -> Any:
            converted = convert(operation, weights, **named)
            trimmer.count(_count(weights))
            return converted

        return convert_and_trim

    for kind, original in zip(kinds, originals, strict=True):
        kind.convert = trimming(original)
    try:
        yield
    finally:
        for kind, original in zip(kinds, originals, strict=True):
            kind.convert = original


def _count(weights: Mapping[str, Any]) -> int:
    """Of what transformers hands to a quantisation: tensors by name, alone or in lists."""
    lists = (found if isinstance(found, list) else [found] for found in weights.values())
    return sum(weight.numel() for weight in itertools.chain.from_iterable(lists))


def leave_file(model: torch.nn.Module) -> None:
    """Copies what a quantisation left as it was in the file, which is mapped into memory whole.

    One embedding that is still read from it would keep all of its 16-bit weights in memory.
    """
    import torch

    for parameter in model.parameters():
        plain = type(parameter.data) is torch.Tensor and parameter.is_floating_point()
        if plain and parameter.device.type == "cpu":
            parameter.data = parameter.data.clone()
