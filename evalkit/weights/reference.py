"""What each weight would be without the adapters, and what those wanted to add to it.

Layer by layer out of files, repeating on one weight at a time what the path does to all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evalkit import paths
from evalkit.errors import WeightsError
from evalkit.weights import layer_weights, quantization
from evalkit.weights.adapter_delta import adapter_delta
from evalkit.weights.adapters import meta_model
from evalkit.weights.building import BuildContext
from evalkit.weights.layer_weights import FolderTensors
from evalkit.weights.loading import effective_dtype, torch_dtype

if TYPE_CHECKING:
    from pathlib import Path

    import torch


@dataclass(frozen=True)
class ReferenceLayer:
    """One weight at the end of the path without its adapters, and what the merged ones add."""

    weight: torch.Tensor
    """[out, in] in float32; of an embedding [entries, width]."""
    wanted: torch.Tensor
    """Of the same shape."""
    codes: torch.Tensor | None
    """As `layer_weights.codes` gives them; None where the path ends without any."""


class StreamedReference:
    """Repeats a path on one weight at a time. Only that weight is in memory.

    DoRA's change depends on the weight that it goes on: on what the path without adapters has
    there, plus what adapters that were merged before wanted.

    Args:
        path: normalised.
        context: what the variant was built with.
        folder: the base weights that the variant started from; a whole fine-tuned model on the
            path takes their place.
        kept: a checkpoint of them as the path's first `quantize` stores them: what is read there
            need not be quantised again.

    Raises:
        WeightsError: the files do not name a weight that an adapter targets as the model does.
    """

    def __init__(
        self, path: paths.Path, context: BuildContext, folder: Path, kept: Path | None = None
    ) -> None:
        self._path = path
        self._context = context
        self._folder = folder
        self._skeleton = skeleton = meta_model(folder, trust_remote_code=context.trust_remote_code)
        attached = [step.adapter for step in path if isinstance(step, paths.Attach)]
        start = next((context.adapters[name] for name in attached if name in context.full), folder)
        prefix = getattr(skeleton, "base_model_prefix", "")
        self._tensors = FolderTensors(start, prefix=prefix)
        # Before it nothing but a load decides the base's weights: the rest are adapters' steps.
        quantize = (i for i, step in enumerate(path) if isinstance(step, paths.Quantize))
        self._first = next(quantize, None)
        self._kept = FolderTensors(kept, prefix=prefix) if kept and start == folder else None
        self._deltas = {
            name: adapter_delta(
                context.adapters[name], folder, trust_remote_code=context.trust_remote_code
            )
            for name in attached
            if name not in context.full
        }
        self._quantized = {
            index: layer_weights.quantized_names(skeleton, step)
            for index, step in enumerate(path)
            if isinstance(step, paths.Quantize)
        }
        merged = paths.merged_adapters(path, context.full)
        targeted = {name for adapter in merged for name in self._deltas[adapter].modules}
        self.modules = tuple(name for name, _ in skeleton.named_modules() if name in targeted)
        missing = [name for name in self.modules if f"{name}.weight" not in self._tensors]
        if missing:
            raise WeightsError(f"{folder}: holds no tensor {missing[0]}.weight")

    def layer(self, name: str, device: torch.device) -> ReferenceLayer:
        """Works one weight out."""
        state = _Walk(self._read(name, device))
        for index, step in enumerate(self._path):
            if isinstance(step, paths.Load):
                state.weight = state.weight.to(self._dtype(step.dtype))
            elif isinstance(step, paths.Quantize):
                if name in self._quantized[index]:
                    state.store(self._quantize(name, index, step, state.weight))
            elif isinstance(step, paths.Dequantize):
                state.expand(self._dtype(step.dtype))
            elif isinstance(step, paths.Merge):
                state.merge()
            elif step.adapter in self._deltas and name in self._deltas[step.adapter].modules:
                state.attach(self._deltas[step.adapter].delta(name, state.before_adapter()))
        return state.finish()

    def _quantize(self, name: str, index: int, step: paths.Quantize, weight: torch.Tensor) -> Any:
        """Stores a weight as the path's step of this index did."""
        if index == self._first and self._kept is not None and step.group_size is None:
            return layer_weights.read_quantized(self._kept, name, weight.device)
        return layer_weights.quantize_weight(weight, step)

    def _read(self, name: str, device: torch.device) -> torch.Tensor:
        stored = self._tensors.read(f"{name}.weight").to(device)
        if layer_weights.is_transposed(self._skeleton.get_submodule(name)):
            return stored.T.contiguous()
        return stored

    def _dtype(self, name: str | None) -> torch.dtype:
        effective = dict(self._context.effective_dtypes)
        return torch_dtype(effective_dtype(name or "auto", self._folder, effective))


@dataclass
class _Walk:
    """One weight on its way along a path, without adapters, and what these want on the way."""

    weight: torch.Tensor
    stored: Any = None
    """The weight in few bits; None where it is not."""
    attached: torch.Tensor | None = None
    wanted: torch.Tensor | None = None

    _expanded: torch.Tensor | None = None
    """`stored` in float32, once it was asked for."""

    def store(self, stored: Any) -> None:
        self.stored, self._expanded = stored, None

    def expand(self, dtype: torch.dtype) -> None:
        if self.stored is not None:
            self.weight = quantization.layer_weight(self.stored)
        self.weight, self.stored, self._expanded = self.weight.to(dtype), None, None

    def before_adapter(self) -> torch.Tensor:
        values = self._values()
        return values if self.wanted is None else values + self.wanted

    def attach(self, delta: torch.Tensor) -> None:
        self.attached = delta if self.attached is None else self.attached + delta

    def merge(self) -> None:
        if self.attached is not None:
            self.wanted = self.attached if self.wanted is None else self.wanted + self.attached
        self.attached = None

    def finish(self) -> ReferenceLayer:
        values = self._values()
        wanted = values.new_zeros(values.shape) if self.wanted is None else self.wanted
        codes = None if self.stored is None else layer_weights.codes(self.stored)
        return ReferenceLayer(values, wanted, codes)

    def _values(self) -> torch.Tensor:
        if self.stored is not None:
            if self._expanded is None:
                self._expanded = layer_weights.expanded(self.stored)
            return self._expanded
        return self.weight.float()
