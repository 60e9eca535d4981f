"""Writes a variant as a folder that transformers loads, and that scores the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from evalkit.errors import WeightsError
from evalkit.weights import loading, quantization
from evalkit.weights.adapters import attach_adapter, pooled_group_size, read_adapter_config
from evalkit.weights.building import BuiltVariant
from evalkit.weights.folders import written_aside
from evalkit.weights.group4 import is_group4
from evalkit.weights.stacked import stack_adapters

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def save_variant(built: BuiltVariant, folder: Path) -> None:
    """Saves a variant with its tokenizer.

    A model with an adapter on top is saved as its weights with the adapter's two files beside
    them: transformers puts the adapter on when it loads the folder. In 16 bits it then computes
    the adapter in 16 bits, where peft (and a score here) has float32: equal up to rounding. Several
    adapters on top are saved as a single one that adds up what they do: equal up to the order of
    the sum. Every other variant is loaded bit for bit. Nobody but evalkit can load group4 weights:
    they are saved as what they expand to in the dtype that they are computed in, four times as
    large, and score the same.

    Args:
        built: a variant as `build_variant` gives it.
        folder: to be written whole or not at all; must be empty, or not be there.

    Raises:
        WeightsError: the folder is in use; the disk is full; of several adapters on top one is
            more than a product of two matrices; one only fits group4 weights; the weights are
            rearranged in memory.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise WeightsError(f"{folder}: is there already and not empty; name another folder")
    for adapter in built.attached:
        if pooled_group_size(read_adapter_config(adapter)):
            raise WeightsError(
                "a QA-LoRA adapter is on top, and works on group4 weights alone, which are saved "
                "expanded: end the path with 'merge', which loses nothing"
            )
    quantization.refuse_repacked(built.model, "save")
    stacked = stack_adapters(built.model) if len(built.attached) > 1 else None
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
        if stacked is not None:
            stacked.write(aside)
        elif built.attached:
            _copy_adapter(built.attached[0], aside)


def _copy_adapter(adapter: Path, folder: Path) -> None:
    """Copies an adapter's two files; its first weights are split off the base that is beside it."""
    for name in _ADAPTER_FILES:
        shutil.copyfile(adapter / name, folder / name)
    config = read_adapter_config(folder)
    if isinstance(config.get("init_lora_weights"), str):
        fields = config | {"init_lora_weights": True}
        (folder / _ADAPTER_FILES[0]).write_text(json.dumps(fields, indent=2), encoding="utf-8")


@contextmanager
def _without_adapters(built: BuiltVariant) -> Iterator[PreTrainedModel]:
    """Takes the adapters off while the weights are saved: peft's layers would be saved as well."""
    from peft import PeftModel

    if not isinstance(built.model, PeftModel):
        yield built.model
        return
    names = list(built.model.base_model.active_adapters)
    base: PreTrainedModel = built.model.unload()
    try:
        yield base
    finally:
        model: PreTrainedModel | PeftModel = base
        for name, adapter in zip(names, built.attached, strict=True):
            model, _ = attach_adapter(model, adapter, name, again=True)
        built.model = model


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
