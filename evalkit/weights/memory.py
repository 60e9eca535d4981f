"""How much memory a path needs, from the configuration alone; and how much a block really took."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import psutil

from evalkit import paths
from evalkit.scoring.logit_rows import LOGIT_ROWS, body_of
from evalkit.weights.adapters import meta_model
from evalkit.weights.checkpoint import stored_dtype
from evalkit.weights.heap import trim_heap

if TYPE_CHECKING:
    import torch

    from evalkit.suite import LoraSpec, TrainingSpec

_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
_RUNTIME = 650_000_000
"""Of a process that has imported torch, transformers, peft and bitsandbytes, and has computed: 465
MB of imports, and what their kernels load and keep at the first forward pass (docs/memory.md)."""
_LAYER_BYTES = 34
"""Of one layer's activations, for each token and hidden unit (Korthikanti et al. 2022)."""
_RANK = 16
_SAMPLING_SECONDS = 0.05


@dataclass(frozen=True)
class Sizes:
    """How many weights a model has, by what can become of them."""

    linear: int
    """In layers that are quantised and that LoRA goes on."""
    linear_rows: int
    """Sum of their output features: one int8 scale each."""
    linear_edges: int
    """Sum of their input and output features: LoRA adds `r` weights for each."""
    other: int
    """Embeddings, norms, biases, the output layer."""
    layers: int
    hidden: int
    vocabulary: int
    whole_logits: bool
    """Whether the logits of a whole batch are in memory at once, and not only so many rows."""


def estimate_bytes(
    folder: Path,
    path: paths.Path,
    *,
    effective_dtypes: Mapping[str, str],
    batch_tokens: int = 4096,
    ranks: Mapping[str, int] | None = None,
    trust_remote_code: bool = False,
) -> int:
    """Estimates the most memory that building and scoring a variant takes at once, in bytes.

    Only the configuration is read; the model is built on torch's meta device. The estimate is the
    largest state of the weights on the path, or the last one with what a batch adds (logits, one
    layer's activations), and the libraries themselves. Every step gives a layer's old weight up
    as it makes the new one, so no two states add up; only group4 is made out of a whole model.
    Pages of a file that is only read are the system's to take back, and are not counted.

    Args:
        folder: the base (its config.json is enough, where no step loads in "auto").
        path: a normalised path.
        effective_dtypes: what each dtype is really computed in.
        batch_tokens: tokens of a scoring batch.
        ranks: of the adapters on the path, by name; 16 where it is not known.
        trust_remote_code: run the modelling code in the folder.

    Raises:
        WeightsError: the configuration is of no causal language model.
    """
    sizes = sizes_of(folder, trust_remote_code=trust_remote_code)
    peak, stored, dtype = 0, 0, "fp32"
    for index, step in enumerate(path):
        beside = 0
        if isinstance(step, paths.Load):
            dtype = _effective(step.dtype, folder, effective_dtypes)
            if _quantizes_next(path, index):
                continue  # quantised layer by layer while it is read
            stored = (sizes.linear + sizes.other) * _BYTES[dtype]
        elif isinstance(step, paths.Quantize):
            stored = quantized_bytes(sizes, step, dtype)
            if step.type == "group4":  # out of the whole model in memory
                beside = (sizes.linear + sizes.other) * _BYTES[dtype]
        elif isinstance(step, paths.Dequantize):
            stored = (sizes.linear + sizes.other) * _BYTES[dtype]
        elif isinstance(step, paths.Attach):
            stored += (ranks or {}).get(step.adapter, _RANK) * sizes.linear_edges * 4
        peak = max(peak, stored + beside)
    rows = batch_tokens if sizes.whole_logits else min(batch_tokens, LOGIT_ROWS)
    batch = rows * sizes.vocabulary * _BYTES[dtype] + batch_tokens * sizes.hidden * _LAYER_BYTES
    return max(peak, stored + batch) + _RUNTIME


def estimate_training_bytes(
    folder: Path,
    path: paths.Path,
    lora: LoraSpec,
    training: TrainingSpec,
    *,
    effective_dtypes: Mapping[str, str],
    trust_remote_code: bool = False,
) -> int:
    """Estimates the most memory that fine-tuning takes at once, in bytes.

    Weights, gradients, two moments of the optimizer, the activations of a step (34 bytes for each
    token, layer and hidden unit, as Korthikanti et al. 2022 count them; with gradient checkpointing
    one layer's and the borders between layers), and the libraries.

    Raises:
        WeightsError: the configuration is of no causal language model.
    """
    sizes = sizes_of(folder, trust_remote_code=trust_remote_code)
    stored = estimate_bytes(
        folder,
        path,
        effective_dtypes=effective_dtypes,
        batch_tokens=0,
        trust_remote_code=trust_remote_code,
    )
    everything = sizes.linear + sizes.other
    if training.method == "full":
        stored, trained = everything * 4 + _RUNTIME, everything
    else:
        trained = lora.r * sizes.linear_edges
    tokens = training.batch_size * training.max_length
    each = tokens * sizes.hidden
    activations = each * _LAYER_BYTES * sizes.layers
    if training.gradient_checkpointing:
        activations = each * (2 * sizes.layers + _LAYER_BYTES)
    return stored + trained * 16 + activations


def sizes_of(folder: Path, *, trust_remote_code: bool = False) -> Sizes:
    """Counts the weights of the model that a folder's configuration describes.

    Once for each configuration: every job asks, and its skeleton takes seconds to build.

    Raises:
        WeightsError: the configuration is of no causal language model.
    """
    file = folder / "config.json"
    config = file.read_bytes() if file.is_file() else b""
    return _sizes_by(folder, config, trust_remote_code)


@lru_cache(maxsize=8)
def _sizes_by(folder: Path, config: bytes, trust_remote_code: bool) -> Sizes:
    return model_sizes(meta_model(folder, trust_remote_code=trust_remote_code))


def model_sizes(skeleton: torch.nn.Module) -> Sizes:
    """Counts a model's weights; tied ones once."""
    import torch
    from transformers.pytorch_utils import Conv1D

    head = getattr(skeleton, "get_output_embeddings", lambda: None)()
    linear = rows = edges = 0
    for module in skeleton.modules():
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head:
            first, second = module.weight.shape
            linear += first * second
            edges += first + second
            rows += second if isinstance(module, Conv1D) else first
    config = skeleton.config.get_text_config()  # type: ignore[union-attr, operator]
    total = sum(parameter.numel() for parameter in skeleton.parameters())
    return Sizes(
        linear=linear,
        linear_rows=rows,
        linear_edges=edges,
        other=total - linear,
        layers=int(config.num_hidden_layers),
        hidden=int(config.hidden_size),
        vocabulary=int(config.vocab_size),
        whole_logits=body_of(skeleton) is None,
    )


def quantized_bytes(sizes: Sizes, step: paths.Quantize, dtype: str) -> int:
    """Bytes of the weights after a `quantize` step (Dettmers et al. 2023, section 3, for NF4).

    Blocks of 64 weights have one float32 scale; double quantisation makes it one byte, with one
    float32 for 256 of them. A group of group4 has a bfloat16 scale and a float32 zero.
    """
    rest = sizes.other * _BYTES[dtype]
    if step.group_size is not None:
        return round(sizes.linear / 2 + sizes.linear / step.group_size * 6) + rest
    if step.type in ("int8", "torchao-int8"):
        return sizes.linear + 4 * sizes.linear_rows + rest
    scales = sizes.linear / 64 * (1 + 4 / 256 if step.double_quant else 4)
    return round(sizes.linear / 2 + scales) + rest


class PeakMemory:
    """Measures the most memory that a block took: resident memory, and CUDA's where there is one.

    Resident memory is looked at twenty times a second, so a shorter peak can be missed.
    """

    def __init__(self) -> None:
        self.resident_bytes = 0
        self.device_bytes = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        if _cuda_is_used():
            import torch

            torch.cuda.reset_peak_memory_stats()
        self._look()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()
        self._look()
        if _cuda_is_used():
            import torch

            self.device_bytes = int(torch.cuda.max_memory_allocated())

    def _watch(self) -> None:
        while not self._done.wait(_SAMPLING_SECONDS):
            self._look()

    def _look(self) -> None:
        self.resident_bytes = max(self.resident_bytes, int(psutil.Process().memory_info().rss))


def spare_libraries() -> None:
    """Takes what libraries brought along out of every later collection of garbage.

    torch and transformers make a million objects that live as long as the process; to look through
    them for garbage after every job takes half a second. Only for a process of our own, and between
    jobs: a model that is in memory now would never be given back. From here on garbage is looked
    for as usual, whatever the command line did to be quick: models lie in circles of objects.
    """
    global _spared_modules
    gc.set_threshold(*_USUAL)
    if len(sys.modules) > _spared_modules:
        gc.collect()
        gc.freeze()
        _spared_modules = len(sys.modules)


_spared_modules = 0
_USUAL = (700, 10, 10)
"""How many objects may be made between two looks for garbage, as Python 3.11 starts."""


def release_memory() -> None:
    """Gives freed memory back to the system, so that the peak of what follows is its own.

    The C library keeps what large tensors leave behind, and resident memory counts that too.
    """
    gc.collect()
    if "torch" in sys.modules and _cuda_is_used():
        import torch

        torch.cuda.empty_cache()
    trim_heap()


def _quantizes_next(path: paths.Path, index: int) -> bool:
    return index + 1 < len(path) and isinstance(path[index + 1], paths.Quantize)


def _effective(name: str, folder: Path, effective_dtypes: Mapping[str, str]) -> str:
    named = stored_dtype(folder) if name == "auto" else name
    return effective_dtypes.get(named, named)


def _cuda_is_used() -> bool:
    import torch

    return torch.cuda.is_available() and bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
