"""torchao's int8 of weights alone: a package that few have, asked for by name."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from evalkit.errors import MissingPackageError

if TYPE_CHECKING:
    import torch


def torchao_config(kept: tuple[str, ...]) -> Any:
    """Says to transformers what `quantize: torchao-int8` asks for.

    Args:
        kept: names of modules that stay as they are; empty leaves transformers its own choice.

    Raises:
        MissingPackageError: torchao is not installed.
    """
    if importlib.util.find_spec("torchao") is None:
        raise MissingPackageError("torchao", purpose="for 'quantize: torchao-int8'")
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    return TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=list(kept) or None)


def torchao_layer(layer: torch.nn.Linear) -> torch.nn.Linear:
    """Stores a layer's weight as torchao's int8, in place, and returns the layer."""
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(layer, Int8WeightOnlyConfig())
    return layer


def is_torchao(module: Any) -> bool:
    """Whether a layer's weight is one of torchao's tensors."""
    return type(getattr(module, "weight", None)).__module__.startswith("torchao.")


def inner_tensors(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """The plain tensors that one of torchao's is made of; any other tensor itself."""
    if not type(tensor).__module__.startswith("torchao."):
        yield tensor
        return
    names, _ = tensor.__tensor_flatten__()  # type: ignore[attr-defined]
    for name in names:
        yield from inner_tensors(getattr(tensor, name))
