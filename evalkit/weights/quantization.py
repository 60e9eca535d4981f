"""Quantised layers: what bitsandbytes repacks on CPUs, cached checkpoints, expansion, counting.

On CPUs with AVX512-BF16 instructions bitsandbytes rearranges 4-bit weights in place at the first
forward pass in eval mode; merging, expanding, saving or training afterwards reads the rearranged
bytes as if they were not, and yields other weights (bitsandbytes issue 2078). It is switched off
here before any 4-bit layer is made; every verb that reads quantised weights checks it all the same.
"""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.digests import digest_json
from evalkit.errors import WeightsError
from evalkit.paths import Quantize
from evalkit.seals import is_unbroken
from evalkit.weights.checkpoint import checkpoint_headers
from evalkit.weights.group4 import is_group4
from evalkit.weights.group4_loading import group4_config
from evalkit.weights.torchao import inner_tensors, is_torchao, torchao_config

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig, PreTrainedModel

_REVISION = 1
"""Part of a cached checkpoint's name: raised when our own quantisation stores other bytes."""


def disable_repacking() -> None:
    """Keeps bitsandbytes from rearranging 4-bit weights in memory. Call it before loading."""
    # On import bitsandbytes warns that it found no kernels on a hub; it works without them.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import bitsandbytes.nn.modules as layers

    layers.has_avx512bf16 = lambda: False


def quantization_config(
    step: Quantize, compute_dtype: torch.dtype, kept: tuple[str, ...]
) -> BitsAndBytesConfig | Any:
    """Says to transformers what a `quantize` step asks for.

    Args:
        step: the step.
        compute_dtype: what matrix products run in.
        kept: names of modules that stay as they are; empty leaves transformers its own choice
            (the output layer).
    """
    from transformers import BitsAndBytesConfig

    if step.type == "group4":
        return group4_config(step, compute_dtype, kept)
    if step.type == "torchao-int8":
        return torchao_config(kept)
    skip = list(kept) or None
    if step.type == "int8":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skip)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=step.type,
        bnb_4bit_use_double_quant=step.double_quant,
        bnb_4bit_compute_dtype=compute_dtype,
        llm_int8_skip_modules=skip,
    )


def cached_checkpoint(cache: Path, identity: dict[str, Any]) -> Path:
    """Where the checkpoint of a quantised base is kept.

    Args:
        cache: evalkit's cache folder.
        identity: whatever decides the bytes besides the versions of the libraries.
    """
    names = ("bitsandbytes", "torch", "transformers")
    versions = {name: importlib.metadata.version(name) for name in names}
    content = {**identity, "versions": versions, "revision": _REVISION}
    return cache / "quantized" / digest_json(content)[:32]


def is_whole(folder: Path, cache: Path) -> bool:
    """Whether a cached checkpoint is there and undamaged; a damaged one is made again."""
    if not is_unbroken(folder, cache):
        return False
    try:
        checkpoint_headers(folder)
    except WeightsError:
        return False
    return True


def quantized_layers(model: torch.nn.Module) -> dict[str, Any]:
    """Every layer whose weight is stored in few bits, by its name in the model."""
    import bitsandbytes as bnb

    kinds = (bnb.nn.Linear4bit, bnb.nn.Linear8bitLt)
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, kinds) or is_group4(module) or is_torchao(module)
    }


def repacked_layers(model: torch.nn.Module) -> list[str]:
    """Names of the 4-bit layers that bitsandbytes has rearranged for this CPU."""
    return [
        name
        for name, layer in quantized_layers(model).items()
        if getattr(_quant_state(layer), "packing_format_for_cpu", False)
    ]


def refuse_repacked(model: torch.nn.Module, verb: str) -> None:
    """Stops before a verb that would read rearranged weights.

    Raises:
        WeightsError: a layer is rearranged.
    """
    repacked = repacked_layers(model)
    if repacked:
        raise WeightsError(
            f"cannot {verb}: bitsandbytes has rearranged the 4-bit weights of {len(repacked)} "
            f"layers ({repacked[0]}, ...) for this CPU, and reading them now would give other "
            "weights (bitsandbytes issue 2078). Load the model again through evalkit"
        )


def layer_weight(layer: Any) -> torch.Tensor:
    """Expands one layer's weight exactly: [out_features, in_features].

    The values lie on the quantisation's grid; in the state's dtype, of int8 and group4 in float32.
    """
    import bitsandbytes.functional as functional

    if is_group4(layer):
        exact: torch.Tensor = layer.dequantize()
        return exact
    if is_torchao(layer):
        values: torch.Tensor = layer.weight.data.dequantize()
        return values
    state = _quant_state(layer)
    if state is not None:
        expanded: torch.Tensor = functional.dequantize_4bit(layer.weight.data, state)
    else:
        expanded = functional.int8_vectorwise_dequant(layer.weight.data, _int8_scales(layer))
    return expanded


def expand(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Replaces every quantised layer by a plain one of the same values, in place.

    A layer that was a Conv1D before it was quantised becomes one again (GPT-2), so that what is
    saved can be loaded.

    Args:
        model: a model with quantised layers.
        dtype: of the new weights.

    Raises:
        WeightsError: the weights are rearranged (see the module's first lines), or not quantised.
    """
    import torch

    refuse_repacked(model, "dequantise")
    layers = quantized_layers(model)
    if not layers:
        raise WeightsError("cannot dequantise: no layer of the model is quantised")
    with torch.no_grad():
        while layers:  # nothing holds on to a layer that has its successor
            name, layer = layers.popitem()
            model.set_submodule(name, _plain_layer(layer, dtype))
            # bitsandbytes' weights point back at their layer: a circle, which would keep all of
            # them beside the new ones until Python next collects.
            weight: Any = getattr(layer, "weight", None)
            if getattr(weight, "module", None) is layer:
                weight.module = None
            del layer
    forget_quantization(model)
    return model


def forget_quantization(model: PreTrainedModel) -> None:
    """Removes what still calls a model quantised: saving and training ask for it."""
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    for mark in ("hf_quantizer", "quantization_method"):
        if hasattr(model, mark):
            delattr(model, mark)
    # The conversions of a quantised checkpoint's tensors, which saving would run backwards.
    model._weight_conversions = None
    for flag in ("is_loaded_in_4bit", "is_loaded_in_8bit", "is_quantized"):
        if hasattr(model, flag):
            setattr(model, flag, False)


def stored_bytes(model: torch.nn.Module) -> int:
    """Bytes of all parameters and buffers, counted once, with the quantisation's scales."""
    seen: dict[int, int] = {}
    for tensor in _all_tensors(model):
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
    return sum(seen.values())


def count_parameters(model: torch.nn.Module) -> int:
    """How many weights a model has; of 4-bit layers the weights, not the bytes."""
    packed = {id(layer.weight): layer for layer in quantized_layers(model).values()}
    total = 0
    for parameter in model.parameters():
        layer = packed.get(id(parameter))
        total += layer.in_features * layer.out_features if layer is not None else parameter.numel()
    return total


def _plain_layer(layer: Any, dtype: torch.dtype) -> torch.nn.Module:
    import torch
    from transformers.pytorch_utils import Conv1D

    weight = layer_weight(layer).to(dtype)
    bias = None if layer.bias is None else torch.nn.Parameter(layer.bias.data, False)
    was = getattr(layer, "source_cls", torch.nn.Linear)
    with torch.device("meta"):
        plain: torch.nn.Module
        if issubclass(was, Conv1D):
            plain, weight = Conv1D(layer.out_features, layer.in_features), weight.T.contiguous()
        else:
            plain = torch.nn.Linear(layer.in_features, layer.out_features, bias is not None)
    plain.weight = torch.nn.Parameter(weight, False)
    if bias is not None:
        plain.bias = bias
    return plain.train(layer.training)


def _int8_scales(layer: Any) -> torch.Tensor:
    """One float32 scale a row; the first forward pass moves it from the weight to the state."""
    scales: torch.Tensor = layer.weight.SCB if layer.state.SCB is None else layer.state.SCB
    return scales


def _quant_state(layer: Any) -> Any:
    return getattr(layer.weight, "quant_state", None)


def _all_tensors(model: torch.nn.Module) -> Iterator[torch.Tensor]:
    for parameter in model.parameters():
        yield from inner_tensors(parameter)
    yield from model.buffers()
    for layer in quantized_layers(model).values():
        state = _quant_state(layer)
        if is_group4(layer) or is_torchao(layer):
            continue  # all of it is in parameters and buffers
        if state is not None:
            nested = state.state2
            scales = (state.absmax, state.code, state.offset)
            yield from (tensor for tensor in scales if tensor is not None)
            if nested is not None:
                yield from (nested.absmax, nested.code)
        else:
            yield _int8_scales(layer)
