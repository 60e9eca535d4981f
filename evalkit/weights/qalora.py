"""LoRA on group4 weights with peft: plain, or QA-LoRA, whose input is pooled over each group.

QA-LoRA (Xu et al. 2023, arXiv:2309.14717). peft trains it on GPTQ layers only, ignores the request
silently on all others, and has no merge for it; here it is for group4 layers, in peft's own format
(`use_qalora`, `qalora_group_size`), with the merge. As in peft, the input is averaged over a group
and multiplied by the number of groups G, so that

    ΔW[o, i] = scaling · (G / group_size) · (B·A)[o, g(i)]
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from evalkit.errors import WeightsError
from evalkit.weights.group4 import group4_class, is_group4

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig


def on_group4(config: LoraConfig) -> LoraConfig:
    """Tells peft which layer to put on group4 weights. To be told again for every load."""
    config._register_custom_module({group4_class(): group4_lora_class()})
    return config


@functools.cache
def group4_lora_class() -> type[Any]:
    """The class of peft layers on group4 weights; made on first use, as peft is."""
    import torch
    from peft.tuners.lora.layer import LoraLayer
    from peft.tuners.tuners_utils import check_adapters_to_merge

    class Group4LoraLinear(torch.nn.Module, LoraLayer):  # type: ignore[misc]
        def __init__(
            self, base_layer: Any, adapter_name: str, config: Any, r: int = 0, **given: Any
        ) -> None:
            super().__init__()
            LoraLayer.__init__(self, base_layer)
            self.fan_in_fan_out = False
            self._active_adapter = adapter_name
            layer: Any = self
            layer.update_layer(adapter_name, r, lora_alpha=given["lora_alpha"], config=config)

        def resolve_lora_variant(self, *, config: Any, **_: Any) -> Any:
            if config.use_dora:
                raise ValueError("use_dora cannot be used on group4 weights")
            return pooled_variant_class()() if config.use_qalora else None

        def forward(self, x: torch.Tensor, *args: Any, **given: Any) -> torch.Tensor:
            layer: Any = self
            return with_adapters(layer, x, layer.base_layer(x, *args, **given))

        def merge(self, safe_merge: bool = False, adapter_names: Any = None) -> None:
            layer: Any = self
            for name in check_adapters_to_merge(self, adapter_names):
                if name in layer.lora_A:
                    merge_into_zeros(self, name)
                    layer.merged_adapters.append(name)

        def get_delta_weight(self, adapter: str) -> torch.Tensor:
            layer: Any = self
            delta = group_delta(layer, adapter)
            return delta.repeat_interleave(layer.in_features // delta.shape[1], dim=1)

    return Group4LoraLinear


@functools.cache
def pooled_variant_class() -> type[Any]:
    """Peft's QA-LoRA variant, which makes `lora_A` as wide as there are groups; with a merge."""
    from peft.tuners.lora.variants import QALoraLinearVariant

    class PooledVariant(QALoraLinearVariant):  # type: ignore[misc]
        @staticmethod
        def merge_safe(module: Any, active_adapter: str, orig_weight: torch.Tensor) -> torch.Tensor:
            added: torch.Tensor = module.get_delta_weight(active_adapter)
            return orig_weight + added

    return PooledVariant


def with_adapters(layer: Any, x: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
    """Adds what the active adapters of a layer say about `x` to what its base layer says."""
    if layer.disable_adapters or layer.merged:
        return result
    for name in layer.active_adapters:
        if name not in layer.lora_A:
            continue
        first, second = layer.lora_A[name], layer.lora_B[name]
        seen = layer.lora_dropout[name](layer._cast_input_dtype(x, first.weight.dtype))
        if name in layer.lora_variant:
            seen = pooled(seen, first.in_features)
        result = result + (second(first(seen)) * layer.scaling[name]).to(result.dtype)
    return result


def pooled(x: torch.Tensor, groups: int) -> torch.Tensor:
    """Averages the input over each group and multiplies by their number: [..., groups]."""
    return x.reshape(*x.shape[:-1], groups, -1).mean(dim=-1) * groups


def group_delta(layer: Any, adapter: str) -> torch.Tensor:
    """What an adapter adds to each weight of each group: [out_features, groups], float32.

    Of a plain LoRA the groups are single inputs.
    """
    first, second = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
    delta: torch.Tensor = second.detach().float() @ first.detach().float() * layer.scaling[adapter]
    groups = first.shape[1]
    return delta if adapter not in layer.lora_variant else delta * groups**2 / layer.in_features


def merge_into_zeros(layer: Any, adapter: str) -> None:
    """Folds a QA-LoRA adapter into the zeros of a group4 layer; the codes stay as they are.

    (code − zero)·scale + ΔW = (code − (zero − ΔW/scale))·scale.

    Raises:
        WeightsError: the adapter is no QA-LoRA, or of another group size.
    """
    base = layer.get_base_layer()
    if adapter not in layer.lora_variant:
        raise WeightsError(
            f"{adapter}: is a plain LoRA adapter, and cannot be merged into group4 weights "
            "without rounding it away. Put 'dequantize' before 'attach', or train it with "
            "'flavour: qa-lora'"
        )
    delta = group_delta(layer, adapter)
    if delta.shape != base.zero.shape:
        raise WeightsError(
            f"{adapter}: sees {delta.shape[1]} groups, and the weights have {base.zero.shape[1]}"
        )
    base.zero = base.zero - delta.to(base.zero.device) / base.scale.float()


def require_group4(model: torch.nn.Module, what: str) -> None:
    """Refuses a QA-LoRA adapter for a model without group4 weights.

    Raises:
        WeightsError: there are none.
    """
    if not any(is_group4(module) for module in model.modules()):
        raise WeightsError(
            f"{what}: is a QA-LoRA adapter, and the model has no group4 weights: put "
            "'quantize: group4' before 'attach'"
        )


def check_pooled(model: torch.nn.Module, adapter: str, group_size: int, what: str) -> None:
    """Makes sure that a QA-LoRA adapter is one in every layer: peft ignores what it cannot do.

    Args:
        model: with the adapter on it.
        adapter: peft's name for it.
        group_size: that was asked for.
        what: the adapter, for the message.

    Raises:
        WeightsError: names a layer that is none.
    """
    from peft.tuners.lora.layer import LoraLayer

    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer) or adapter not in layer.lora_A:
            continue
        base = layer.get_base_layer()
        if not is_group4(base):
            raise WeightsError(
                f"{what}: is a QA-LoRA adapter, and {name} is no group4 layer: quantise it, or "
                "leave it out of target_modules"
            )
        if base.group_size != group_size:
            raise WeightsError(
                f"{what}: has groups of {group_size}, and {name} has weights in groups of "
                f"{base.group_size}"
            )
        width = layer.lora_A[adapter].weight.shape[1]
        if width != base.in_features // group_size:
            raise WeightsError(
                f"{what}: sees {width} inputs of {name}, where QA-LoRA sees "
                f"{base.in_features // group_size}"
            )
