"""Teaches transformers to quantise to group4 while it loads, to save group4, and to load it again.

This is transformers' own way to add a method (`register_quantizer`): a folder with group4 weights
is one that `save_pretrained` wrote, and `from_pretrained` loads it after `register_group4()`.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from evalkit.paths import Quantize
from evalkit.weights.group4 import empty_layer, filled_layer

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

METHOD = "evalkit_group4"
"""What `quantization_config.quant_method` says in the config.json of such a folder."""


def group4_config(step: Quantize, compute_dtype: torch.dtype, kept: tuple[str, ...]) -> Any:
    """Says to transformers what a `quantize: group4` step asks for.

    Args:
        step: the step.
        compute_dtype: what matrix products run in.
        kept: names of modules that stay as they are, besides the output layer.
    """
    return register_group4()(
        group_size=step.group_size,
        optimize=step.optimize,
        compute_dtype=str(compute_dtype).removeprefix("torch."),
        modules_to_not_convert=list(kept),
    )


@functools.cache
def register_group4() -> type[Any]:
    """Makes `from_pretrained` know group4, once a process; returns the configuration's class."""
    from transformers.quantizers.auto import register_quantization_config, register_quantizer
    from transformers.quantizers.base import HfQuantizer
    from transformers.utils.quantization_config import QuantizationConfigMixin

    @register_quantization_config(METHOD)
    class Group4Config(QuantizationConfigMixin):  # type: ignore[misc]
        def __init__(
            self,
            group_size: int = 64,
            optimize: str | None = None,
            compute_dtype: str = "bfloat16",
            modules_to_not_convert: list[str] | None = None,
            quant_method: str = METHOD,
        ) -> None:
            self.quant_method = quant_method
            self.group_size = group_size
            self.optimize = optimize
            self.compute_dtype = compute_dtype
            self.modules_to_not_convert = list(modules_to_not_convert or ())

    @register_quantizer(METHOD)
    class Group4Quantizer(HfQuantizer):  # type: ignore[misc]
        requires_calibration = False
        is_trainable = True

        def is_serializable(self) -> bool:
            return True

        def _process_model_before_weight_loading(self, model: PreTrainedModel, **_: Any) -> None:
            if self.pre_quantized:
                _convert(model, self.quantization_config, filled=False)

        def _process_model_after_weight_loading(
            self, model: PreTrainedModel, **_: Any
        ) -> PreTrainedModel:
            if not self.pre_quantized:
                _convert(model, self.quantization_config, filled=True)
            return model

    return Group4Config


def _convert(model: PreTrainedModel, config: Any, *, filled: bool) -> None:
    """Replaces the linear layers, but for the output layer and those that are to be kept."""
    import torch

    dtype = getattr(torch, config.compute_dtype)
    for name in _names(model, config.modules_to_not_convert):
        layer = model.get_submodule(name)
        new = (
            filled_layer(layer, config.group_size, dtype, optimize=config.optimize, name=name)
            if filled
            else empty_layer(layer, config.group_size, dtype, name)
        )
        model.set_submodule(name, new)


def _names(model: PreTrainedModel, kept: list[str]) -> list[str]:
    import torch
    from transformers.pytorch_utils import Conv1D
    from transformers.quantizers.base import get_keys_to_not_convert
    from transformers.quantizers.quantizers_utils import should_convert_module

    kept = [*kept, *get_keys_to_not_convert(model), *(model._keep_in_fp32_modules or ())]
    return [
        name
        for name, module in model.named_modules()
        if (type(module) is torch.nn.Linear or isinstance(module, Conv1D))
        and should_convert_module(name, kept)
    ]
