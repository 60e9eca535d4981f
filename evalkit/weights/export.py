"""Writes a variant as a folder that transformers loads, and that scores the same."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.errors import WeightsError
from evalkit.weights import loading, quantization
from evalkit.weights.adapters import attach_adapter, pooled_group_size, read_adapter_config
from evalkit.weights.folders import written_aside
from evalkit.weights.group4 import is_group4
from evalkit.weights.steps import BuiltVariant

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def save_variant(built: BuiltVariant, folder: Path) -> None:
    """Saves a variant with its tokenizer.

    A model with an adapter on top is saved as its weights with the adapter's two files beside
    them: transformers puts the adapter on when it loads the folder. In 16 bits it then computes
    the adapter in 16 bits, where peft (and a score here) has float32: equal up to rounding. Every
    other variant is loaded bit for bit. Nobody but evalkit can load group4 weights: they are saved
    as what they expand to in the dtype that they are computed in, four times as large, and score
    the same.

    Args:
        built: a variant as `build_variant` gives it.
        folder: to be written whole or not at all; must be empty, or not be there.

    Raises:
        WeightsError: the folder is in use, the disk is full, several adapters are on top, or one
            that only fits group4 weights, or the weights are rearranged in memory.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise WeightsError(f"{folder}: is there already and not empty; name another folder")
    if len(built.attached) > 1:
        raise WeightsError(
            f"{len(built.attached)} adapters are on top, and a folder has room for one: "
            "end the path with 'merge'"
        )
    for adapter in built.attached:
        if pooled_group_size(read_adapter_config(adapter)):
            raise WeightsError(
                "a QA-LoRA adapter is on top, and works on group4 weights alone, which are saved "
                "expanded: end the path with 'merge', which loses nothing"
            )
    quantization.refuse_repacked(built.model, "save")
    with (
        _without_adapters(built) as base,
        _without_group4(base) as model,
        written_aside(folder) as aside,
    ):
        # A reloaded 4-bit checkpoint remembers how it was read; run backwards, that fails.
        model._weight_conversions = None
        with loading.quiet_libraries():
            model.save_pretrained(aside)
            built.tokenizer.save_pretrained(aside)
        for adapter in built.attached:
            for name in _ADAPTER_FILES:
                shutil.copyfile(adapter / name, aside / name)


@contextmanager
def _without_adapters(built: BuiltVariant) -> Iterator[PreTrainedModel]:
    """Takes the adapter off while the weights are saved: peft's layers would be saved as well."""
    from peft import PeftModel

    if not isinstance(built.model, PeftModel):
        yield built.model
        return
    base: PreTrainedModel = built.model.unload()
    try:
        yield base
    finally:
        (adapter,) = built.attached
        built.model, _ = attach_adapter(base, adapter, "adapter")


@contextmanager
def _without_group4(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """Puts plain layers in the place of group4 ones while the weights are saved."""
    layers = {
        name: layer
        for name, layer in quantization.quantized_layers(model).items()
        if is_group4(layer)
    }
    if not layers:
        yield model
        return
    dtype = next(iter(layers.values())).compute_dtype
    marks = {name: getattr(model, name) for name in ("hf_quantizer", "quantization_method")}
    config = model.config.quantization_config
    try:
        yield quantization.expand(model, dtype)
    finally:
        for name, layer in layers.items():
            model.set_submodule(name, layer)
        for name, mark in marks.items():
            setattr(model, name, mark)
        model.config.quantization_config = config
        model.is_quantized = True
