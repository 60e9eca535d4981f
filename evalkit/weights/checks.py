"""Checks of a variant's weights that run by themselves; each says what it found in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.records.integrity import Finding
from evalkit.weights import quantization
from evalkit.weights.adapter_delta import tensors_by_module
from evalkit.weights.adapters import read_adapter_config
from evalkit.weights.finite import is_finite
from evalkit.weights.torchao import inner_tensors

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

    from evalkit.suite import LoraSpec


def check_finite_weights(model: Any) -> Finding:
    """Looks for numbers that are not finite among weights, buffers and scales."""
    import torch

    bad, count = [], 0
    with torch.no_grad():
        for name, tensor in _floating_tensors(model):
            count += 1
            if not is_finite(tensor):
                bad.append(name)
    if bad:
        others = f" and {len(bad) - 1} others" if len(bad) > 1 else ""
        message = f"{bad[0]}{others} of {count} tensors hold numbers that are not finite"
        return Finding("finite", False, message, severe=True)
    return Finding("finite", True, f"every number in {count} tensors is finite", severe=True)


def check_zero_adapter(folder: Path) -> Finding:
    """Looks for a LoRA adapter that changes nothing: a factor of every product is zero.

    An adapter is so before its first training step. It is no error: as a control it is meant. A
    module with DoRA's magnitudes counts as changed, for these may differ from the weight's own.
    """
    from safetensors import safe_open

    file = folder / "adapter_model.safetensors"
    modules = tensors_by_module(file)
    with safe_open(file, framework="pt") as tensors:
        changed = sum(
            any("magnitude" in part for part in parts)
            or all(
                bool(tensors.get_tensor(name).any())
                for part, name in parts.items()
                if not part.endswith(".bias")
            )
            for parts in modules.values()
        )
    message = f"{changed} of {len(modules)} modules are changed by the adapter"
    return Finding("zero adapter", changed > 0, message)


def check_flavour(folder: Path, spec: LoraSpec) -> Finding:
    """Compares an adapter that was trained with the flavour that the suite asked for.

    peft ignores some requests without a word, and a score would then be told of another method.

    Raises:
        WeightsError: the folder holds no adapter.
    """
    from evalkit.weights.checkpoint import read_headers

    config = read_adapter_config(folder)
    patterns = config.get("rank_pattern") or {}
    problems = [
        f"{field} is {config.get(field)!r}, not {asked!r}"
        for field, asked in (
            ("r", spec.r),
            ("lora_alpha", spec.alpha),
            ("use_rslora", spec.use_rslora),
            ("use_dora", spec.use_dora),
            ("use_qalora", spec.flavour == "qa-lora"),
        )
        if (config.get(field) or False) != asked
    ]
    headers = read_headers(folder / "adapter_model.safetensors")
    firsts = {n: h for n, h in headers.items() if ".lora_A" in n}
    ranks = {tensor.shape[0] for tensor in firsts.values()}
    if not patterns and ranks - {spec.r}:
        problems.append(f"lora_A has {sorted(ranks - {spec.r})[0]} rows, not {spec.r}")
    magnitudes = sum(".lora_magnitude_vector" in name for name in headers)
    wanted = len(firsts) if spec.use_dora else 0
    if magnitudes != wanted:
        problems.append(f"{magnitudes} of {len(firsts)} modules have DoRA's magnitudes")
    message = "; ".join(problems) if problems else f"rank and flavour of {len(firsts)} modules fit"
    return Finding("flavour", not problems, message, severe=True)


# ----------------------------------------------------------------------------- parts


def _floating_tensors(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and tensor of everything that is saved, the scales of quantised weights included."""
    import torch

    # Asking bitsandbytes for the state of rearranged weights would damage them.
    repacked = bool(quantization.repacked_layers(model))
    named = [*model.named_parameters(), *model.named_buffers()]
    for name, tensor in named if repacked else model.state_dict().items():
        if isinstance(tensor, torch.Tensor):
            yield from ((name, t) for t in inner_tensors(tensor) if t.is_floating_point())
