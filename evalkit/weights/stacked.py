"""Several LoRA adapters on top of each other as a single one: their ranks side by side, exactly.

    s₁·B₁·A₁ + s₂·B₂·A₂ = [s₁·B₁ | s₂·B₂] · [A₁ ; A₂]

A folder has room for one adapter; this is the one that does what the stack does.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import WeightsError

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig, PeftModel

_PREFIX = "base_model.model."
_ANY_VALUE = frozenset(
    {
        # which layers, which rank and which scaling: read off the layers themselves
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
        *("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "fan_in_fan_out"),
        # how it was trained, and from what
        *("lora_dropout", "init_lora_weights", "loftq_config", "eva_config", "corda_config"),
        *("lora_ga_config", "base_model_name_or_path", "revision", "runtime_config"),
        # bookkeeping, and settings of a flavour that is refused by its own switch
        *("task_type", "peft_type", "peft_version", "auto_mapping", "inference_mode"),
        *("qalora_group_size", "megatron_core"),
    }
)
"""Fields of peft's configuration that are no hindrance; any other must be at its default."""
_FACTORS = (("lora_A", "lora_B", ".weight"), ("lora_embedding_A", "lora_embedding_B", ""))


@dataclasses.dataclass(frozen=True)
class StackedAdapter:
    """One adapter that adds to the weights what several do together."""

    config: LoraConfig
    tensors: dict[str, torch.Tensor]
    """As adapter_model.safetensors names them, in float32."""

    def write(self, folder: Path) -> None:
        """Writes the two files of a peft adapter into a folder."""
        from safetensors.torch import save_file

        self.config.save_pretrained(str(folder))
        file = folder / "adapter_model.safetensors"
        save_file(self.tensors, file, metadata={"format": "pt"})


def stack_adapters(model: PeftModel) -> StackedAdapter:
    """Puts all active adapters of a model side by side; the model is left as it is.

    Args:
        model: with its adapters as they were attached.

    Raises:
        WeightsError: one of them is more than a product of two matrices, so that it can be no part
            of another (DoRA's magnitudes, trained biases, whole modules, ...).
    """
    from peft import LoraConfig

    names = tuple(model.base_model.active_adapters)
    configs = [model.peft_config[name] for name in names]
    for name, config in zip(names, configs, strict=True):
        _refuse_more_than_a_product(name, config)
    tensors: dict[str, torch.Tensor] = {}
    ranks: dict[str, int] = {}
    for module, layer in _adapted_layers(model):
        for first_name, second_name, ending in _FACTORS:
            factors = _stacked(layer, names, first_name, second_name)
            if factors is None:
                continue
            tensors[f"{_PREFIX}{module}.{first_name}{ending}"] = factors[0]
            tensors[f"{_PREFIX}{module}.{second_name}{ending}"] = factors[1]
            ranks[module] = factors[0].shape[0]
    common = Counter(ranks.values()).most_common(1)[0][0]
    pattern = {re.escape(module): rank for module, rank in ranks.items() if rank != common}
    config = LoraConfig(
        r=common,
        lora_alpha=common,  # alpha / r is 1: the scalings are in the second factors
        rank_pattern=pattern,
        alpha_pattern=dict(pattern),
        target_modules=sorted(ranks),
        fan_in_fan_out=configs[0].fan_in_fan_out,
        task_type=configs[0].task_type,
        base_model_name_or_path=configs[0].base_model_name_or_path,
        inference_mode=True,
    )
    return StackedAdapter(config, tensors)


def _refuse_more_than_a_product(name: str, config: LoraConfig) -> None:
    from peft import LoraConfig

    plain = LoraConfig()
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in _ANY_VALUE or value == getattr(plain, field.name, None) or not value:
            continue
        raise WeightsError(
            f"several adapters are on top, and '{name}' cannot be written together with the others "
            f"as one adapter: it has {field.name}: {value}. End the path with 'merge', or export "
            "each adapter on a path of its own"
        )


def _adapted_layers(model: PeftModel) -> Iterator[tuple[str, Any]]:
    """Every layer with adapters, by the name that it has in the base."""
    from peft.tuners.lora.layer import LoraLayer

    for name, module in model.base_model.model.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


def _stacked(
    layer: Any, names: Sequence[str], first_name: str, second_name: str
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The factors [rank, in] and [out, rank] of all adapters of a layer; None where it has none."""
    import torch

    firsts, seconds = getattr(layer, first_name), getattr(layer, second_name)
    there = [name for name in names if name in firsts]
    if not there:
        return None
    return (
        torch.cat([_numbers(firsts[name]) for name in there]).contiguous(),
        torch.cat(
            [_numbers(seconds[name]) * layer.scaling[name] for name in there], dim=1
        ).contiguous(),
    )


def _numbers(factor: Any) -> torch.Tensor:
    """A factor, which peft keeps as a layer, or of an embedding as a parameter."""
    tensor: torch.Tensor = getattr(factor, "weight", factor)
    return tensor.detach().float().cpu()
