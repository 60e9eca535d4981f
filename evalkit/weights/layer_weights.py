"""One layer's weight at a time: out of files, and expanded out of whatever a model stores it in."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from evalkit.errors import WeightsError
from evalkit.paths import Quantize
from evalkit.weight_files import read_json
from evalkit.weights import quantization
from evalkit.weights.checkpoint import read_headers
from evalkit.weights.group4 import filled_layer, is_group4
from evalkit.weights.torchao import is_torchao, torchao_layer

if TYPE_CHECKING:
    import torch


class FolderTensors:
    """The tensors of a checkpoint's folder by name, each read when it is asked for.

    Files stay open as long as the object lives: opening one reads the names of all its tensors.

    Args:
        folder: safetensors files, with an index where there are several.
        prefix: of the base model in the names ("transformer"), which old checkpoints leave out.
    """

    def __init__(self, folder: Path, *, prefix: str = "") -> None:
        self._folder = folder
        self._prefix = f"{prefix}." if prefix else ""
        self._files = _file_of_each_tensor(folder)
        self._opened: dict[Path, Any] = {}

    def read(self, name: str) -> torch.Tensor:
        """Reads a tensor as it is stored, on the CPU.

        Raises:
            WeightsError: there is none of this name.
        """
        from safetensors import safe_open

        stored = self._stored_name(name)
        if stored is None:
            raise WeightsError(f"{self._folder}: holds no tensor {name}")
        file = self._files[stored]
        if file not in self._opened:
            self._opened[file] = safe_open(file, framework="pt")
        tensor: torch.Tensor = self._opened[file].get_tensor(stored)
        return tensor

    def read_below(self, name: str) -> dict[str, torch.Tensor]:
        """Reads the tensors whose names go on after this one and a dot, by their whole names."""
        start = f"{self._stored_name(name)}."
        return {stored: self.read(stored) for stored in self._files if stored.startswith(start)}

    def __contains__(self, name: str) -> bool:
        return self._stored_name(name) is not None

    def _stored_name(self, name: str) -> str | None:
        candidates = (name, name.removeprefix(self._prefix), self._prefix + name)
        return next((candidate for candidate in candidates if candidate in self._files), None)


def expanded(layer: Any) -> torch.Tensor:
    """A layer's weight, [out, in] in float32; of an embedding [entries, width].

    Quantised weights are the exact values of codes times scales, which a forward pass may round
    once more to the dtype that it computes in.

    Raises:
        WeightsError: the layer has no weight that can be expanded.
    """
    import torch

    weight = getattr(layer, "weight", None)
    state = getattr(weight, "quant_state", None)
    if state is not None:
        exact = copy.copy(state)
        exact.dtype = torch.float32
        layer = SimpleNamespace(weight=SimpleNamespace(data=layer.weight.data, quant_state=exact))
        return quantization.layer_weight(layer)
    if type(weight).__name__ == "Int8Params" or is_group4(layer) or is_torchao(layer):
        return quantization.layer_weight(layer).float()
    if not isinstance(weight, torch.Tensor) or not weight.is_floating_point():
        raise WeightsError(f"a {type(layer).__name__} holds no weight that can be expanded")
    plain = weight.detach()
    return (plain.T if is_transposed(layer) else plain).float()


def codes(layer: Any) -> torch.Tensor | None:
    """The codes that a layer stores for its weight, as bytes; None where it has none.

    Two 4-bit codes share an unsigned byte; a signed one is a code of 8 bits.
    """
    import torch

    weight = getattr(layer, "weight", None)
    weight = getattr(weight, "qdata", weight)  # of torchao's tensors
    if not isinstance(weight, torch.Tensor):
        return None
    packed = weight.data.reshape(-1)
    if getattr(weight, "quant_state", None) is not None:
        return packed.view(torch.uint8)
    return packed if packed.dtype in (torch.uint8, torch.int8) else None


def count_changed(codes_a: torch.Tensor, codes_b: torch.Tensor) -> tuple[int, int]:
    """How many codes there are, and how many of them differ; two tensors of `codes`."""
    import torch

    if codes_a.dtype == torch.int8:
        return codes_a.numel(), int((codes_a != codes_b).sum())
    differing = codes_a ^ codes_b
    changed = int(((differing & 0x0F) != 0).sum()) + int(((differing & 0xF0) != 0).sum())
    return 2 * codes_a.numel(), changed


def quantize_weight(weight: torch.Tensor, step: Quantize) -> Any:
    """Stores one weight as it is stored while transformers loads a model.

    Args:
        weight: [out, in], in the dtype and on the device that the model is loaded in.
        step: says how.

    Returns:
        What `expanded`, `codes` and `quantization.layer_weight` take for a layer.
    """
    import bitsandbytes as bnb

    if step.group_size is not None:
        plain = plain_layer(weight)
        optimize = step.optimize
        return filled_layer(plain, step.group_size, weight.dtype, optimize=optimize, name="weight")
    if step.type == "torchao-int8":
        return torchao_layer(plain_layer(weight))
    if step.type == "int8":
        parameter = bnb.nn.Int8Params(weight.cpu(), requires_grad=False, has_fp16_weights=False)
        return SimpleNamespace(weight=parameter.to(weight.device), state=SimpleNamespace(SCB=None))
    parameter = bnb.nn.Params4bit(
        weight, requires_grad=False, compress_statistics=step.double_quant, quant_type=step.type
    )
    return SimpleNamespace(weight=parameter.to(weight.device))


def read_quantized(tensors: FolderTensors, name: str, device: torch.device) -> Any:
    """One module's weight out of a checkpoint that transformers saved in bitsandbytes' 4 bits.

    Args:
        tensors: the checkpoint.
        name: the module's.
        device: where the weight is to lie.

    Returns:
        What `quantize_weight` gave when the checkpoint was made.
    """
    import bitsandbytes as bnb

    weight = f"{name}.weight"
    parameter = bnb.nn.Params4bit.from_prequantized(
        tensors.read(weight), tensors.read_below(weight), device=device
    )
    return SimpleNamespace(weight=parameter)


def plain_layer(weight: torch.Tensor) -> torch.nn.Linear:
    """A linear layer of a weight [out, in], without bias."""
    import torch

    outputs, inputs = weight.shape
    layer = torch.nn.Linear(inputs, outputs, bias=False, device="meta")
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    return layer


def quantized_names(skeleton: torch.nn.Module, step: Quantize) -> frozenset[str]:
    """Names of the modules whose weights transformers stores in few bits.

    Args:
        skeleton: the model, not quantised; no numbers needed.
        step: for the modules that it leaves out.
    """
    import torch
    from transformers.pytorch_utils import Conv1D
    from transformers.quantizers.base import get_keys_to_not_convert
    from transformers.quantizers.quantizers_utils import should_convert_module

    kept = [*get_keys_to_not_convert(skeleton), *step.skip_modules]
    kept += list(getattr(skeleton, "_keep_in_fp32_modules", None) or ())
    # torchao's int8 takes linear layers alone.
    transposed = () if step.type == "torchao-int8" else (Conv1D,)
    return frozenset(
        name
        for name, module in skeleton.named_modules()
        if (type(module) is torch.nn.Linear or isinstance(module, transposed))
        and should_convert_module(name, kept)
    )


def is_transposed(layer: Any) -> bool:
    """Whether a layer keeps its weight as [in, out] (GPT-2's Conv1D)."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(layer, Conv1D)


def _file_of_each_tensor(folder: Path) -> dict[str, Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = read_json(index).get("weight_map", {})
        return {name: folder / file for name, file in names.items()}
    return {name: file for file in folder.glob("*.safetensors") for name in read_headers(file)}
