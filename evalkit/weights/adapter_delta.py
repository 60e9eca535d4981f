"""What a LoRA adapter adds to each weight, said by peft itself, one layer at a time."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.errors import WeightsError
from evalkit.weight_files import ADAPTER_FILES, Stamp, stamp
from evalkit.weights.adapters import meta_model
from evalkit.weights.group4 import empty_layer
from evalkit.weights.layer_weights import is_transposed
from evalkit.weights.loading import quiet_libraries
from evalkit.weights.qalora import on_group4

if TYPE_CHECKING:
    import torch

_NAME = "measured"
_PREFIX = "base_model.model."


def adapter_delta(adapter: Path, base: Path, *, trust_remote_code: bool = False) -> AdapterDelta:
    """What an adapter adds to the weights of a base.

    It is the same object as long as both folders' files stay as they are: peft takes a second to
    wrap hundreds of layers, and every variant has the same adapter on the same base.

    Raises:
        WeightsError: transformers does not know the base's configuration.
    """
    files = [*(adapter / name for name in ADAPTER_FILES), base / "config.json"]
    return _adapter_delta(adapter, base, stamp(files), trust_remote_code)


@functools.lru_cache(maxsize=4)
def _adapter_delta(
    adapter: Path, base: Path, state: Stamp, trust_remote_code: bool
) -> AdapterDelta:
    return AdapterDelta(adapter, meta_model(base, trust_remote_code=trust_remote_code))


class AdapterDelta:
    """An adapter on a model without numbers: peft decides targets, ranks, scaling and flavour.

    Args:
        folder: the adapter.
        skeleton: the base on torch's meta device; peft is put around its layers.
    """

    def __init__(self, folder: Path, skeleton: torch.nn.Module) -> None:
        from peft import PeftConfig, inject_adapter_in_model
        from safetensors import safe_open

        self._folder = folder
        with quiet_libraries():
            config = PeftConfig.from_pretrained(str(folder))
        config.init_lora_weights = False  # nothing to initialise from, and it would be overwritten
        config.modules_to_save = None
        self._tensors = tensors_by_module(folder / "adapter_model.safetensors")
        # Open as long as this lives: opening it reads the names of all its tensors.
        self._file: Any = safe_open(folder / "adapter_model.safetensors", framework="pt")
        self._wrapped = skeleton
        self.modules = tuple(name for name, _ in skeleton.named_modules() if name in self._tensors)
        """Names of the modules that it targets, in the model's order."""
        if getattr(config, "use_qalora", False):
            self._pool(config)
        with quiet_libraries():
            inject_adapter_in_model(config, self._wrapped, _NAME, low_cpu_mem_usage=True)

    def _pool(self, config: Any) -> None:
        """Puts the layers under QA-LoRA that it goes on: peft ignores it on all others."""
        import torch

        on_group4(config)
        for name in self._tensors:
            layer = self._wrapped.get_submodule(name)
            size = config.qalora_group_size
            self._wrapped.set_submodule(name, empty_layer(layer, size, torch.float32, name))

    def delta(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """What the adapter adds to a module's weight: get_delta_weight, for DoRA W′ − W.

        Args:
            name: one of `modules`.
            weight: W, [out, in] in float32 (of an embedding [entries, width]); DoRA depends on it.

        Returns:
            Of the same shape, in float32.

        Raises:
            WeightsError: peft has no layer there, or cannot say.
        """
        import torch

        layer: Any = self._wrapped.get_submodule(name)
        if not hasattr(layer, "base_layer"):
            raise WeightsError(f"{self._folder}: peft puts nothing on {name}")
        empty = [(module, dict(module._parameters)) for module in layer.modules()]
        transposed = is_transposed(layer.base_layer)
        stored = weight.T.contiguous() if transposed else weight
        layer.base_layer.weight = torch.nn.Parameter(stored, False)
        try:
            self._fill(layer, name, weight.device)
            with torch.no_grad():
                added = added_weight(layer, _NAME, stored)
        finally:  # no layer's numbers outlive its turn
            for module, parameters in empty:
                module._parameters.clear()
                module._parameters.update(parameters)
        return added.T if transposed else added

    def _fill(self, layer: Any, name: str, device: torch.device) -> None:
        """Puts the adapter's numbers into one layer."""
        state = {
            _parameter_of(part): self._file.get_tensor(stored).float().to(device)
            for part, stored in self._tensors[name].items()
        }
        unknown = layer.load_state_dict(state, strict=False, assign=True).unexpected_keys
        if unknown:
            raise WeightsError(f"{self._folder}: peft's layer for {name} has no {unknown[0]}")


def added_weight(layer: Any, adapter: str, weight: torch.Tensor) -> torch.Tensor:
    """What one adapter of a peft layer adds to its base's weight.

    Args:
        layer: a LoRA layer with its numbers.
        adapter: peft's name for the adapter.
        weight: of the base layer, in the layer's own orientation, in float32.
    """
    variant = getattr(layer, "lora_variant", {}).get(adapter)
    added: torch.Tensor
    if variant is None:
        added = layer.get_delta_weight(adapter)
    else:
        added = variant.merge_safe(layer, adapter, weight.clone()) - weight
    return added.detach().float()


def tensors_by_module(file: Path) -> dict[str, dict[str, str]]:
    """An adapter's LoRA tensors: by module, then by part ("lora_A.weight"), the tensor's name."""
    from evalkit.weights.checkpoint import read_headers

    found: dict[str, dict[str, str]] = {}
    for name in read_headers(file):
        module, dot, part = name.removeprefix(_PREFIX).partition(".lora_")
        if dot:
            found.setdefault(module, {})[f"lora_{part}"] = name
    return found


def _parameter_of(part: str) -> str:
    """'lora_A.weight' as peft calls it in a layer: 'lora_A.NAME.weight'."""
    kind, _, leaf = part.partition(".")
    if kind == "lora_magnitude_vector":
        return f"{kind}.{_NAME}.weight"
    return f"{kind}.{_NAME}.{leaf}" if leaf else f"{kind}.{_NAME}"
