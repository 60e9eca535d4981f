"""The five verbs of a path, one function each, and the state that they work on."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from evalkit import paths
from evalkit.errors import WeightsError
from evalkit.weights import loading, quantization
from evalkit.weights.adapters import attach_adapter, check_adapter
from evalkit.weights.building import BuildContext
from evalkit.weights.folders import written_aside
from evalkit.weights.group4 import is_group4
from evalkit.weights.heap import leave_file, trim_between_layers
from evalkit.weights.initial import check_quantization
from evalkit.weights.kept_modules import kept_modules
from evalkit.weights.memory import release_memory

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


@dataclass
class Build:
    """The state on the way along a path."""

    context: BuildContext
    folder: Path
    """The base weights."""
    load_dtype: str = ""
    kept: Path | None = None
    """A kept checkpoint of the base as the path's first `quantize` stores it, if there is one."""
    model: PreTrainedModel | PeftModel | None = None
    quantised: paths.Quantize | None = None
    """The last `quantize`, also after a `dequantize`."""
    attached: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    saved: Path | None = None
    """Files of the weights as they are now, where there are any that others go on from too."""

    def dtype(self, name: str | None) -> str:
        """The effective dtype of a dtype in the path."""
        effective = dict(self.context.effective_dtypes)
        return loading.effective_dtype(name or "auto", self.folder, effective)

    def settle_dtype(self, step: paths.Load) -> None:
        """Decides what `load` really means here, and notes where that is something else."""
        self.load_dtype = self.dtype(step.dtype)
        if step.dtype not in ("auto", self.load_dtype):
            self.note(f"{step.dtype} was computed in {self.load_dtype}, the faster one here")

    def note(self, text: str) -> None:
        """Says something of the variant, once."""
        if text not in self.notes:
            self.notes.append(text)


def load(step: paths.Load, build: Build) -> None:
    """Reads the base weights in a 16- or 32-bit dtype."""
    build.settle_dtype(step)
    build.model = load_folder(build, build.folder)


def load_quantized(load_step: paths.Load, step: paths.Quantize, build: Build) -> None:
    """Reads the base weights and stores them in few bits.

    In 4 bits this is done once: the checkpoint is kept, and loaded again for every variant, so
    that all of them start from the same bytes.
    """
    build.settle_dtype(load_step)
    build.quantised = step
    if step.type in ("int8", "torchao-int8"):
        build.model = load_folder(build, build.folder, _few_bits(step, build, build.folder))
        return
    folder = _checkpoint_of_base(step, build)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if not quantization.is_whole(folder, build.context.cache):
            model = load_folder(build, build.folder, _few_bits(step, build, build.folder))
            with written_aside(folder, sealed=True) as aside, loading.quiet_libraries():
                model.save_pretrained(aside)
            del model
            release_memory()
    build.kept = folder
    build.model = load_folder(build, folder)


def quantize(step: paths.Quantize, build: Build) -> None:
    """Stores 16/32-bit weights that came about on the path in few bits.

    They are saved and loaded with a quantisation, which is how a user does it.
    """
    if build.quantised is None and not build.context.full:
        beside = _checkpoint_of_base(step, build)
        build.kept = beside if quantization.is_whole(beside, build.context.cache) else None
    build.quantised = step
    with _written_down(build) as folder:
        build.model = None
        release_memory()  # a model is a cycle of objects: it would stay beside the next one
        build.model = load_folder(build, folder, _few_bits(step, build, folder))


def dequantize(step: paths.Dequantize, build: Build) -> None:
    """Expands quantised weights; their rounding stays."""
    dtype = loading.torch_dtype(build.dtype(step.dtype))
    model = quantization.expand(loaded(build), dtype)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    model.config.dtype = dtype
    build.load_dtype = build.dtype(step.dtype)
    build.model = model


def attach(step: paths.Attach, build: Build) -> None:
    """Puts an adapter on top; a whole fine-tuned model replaces the weights."""
    folder = build.context.adapters[step.adapter]
    if step.adapter in build.context.full:
        build.model = None
        release_memory()
        build.model = load_folder(build, folder)
        build.note(f"{step.adapter} is a whole fine-tuned model: its weights replace the base's")
        return
    check_quantization(folder, build.quantised, step.adapter)
    check_adapter(folder, build.folder, trust_remote_code=build.context.trust_remote_code)
    model = loaded(build)
    build.model, _ = attach_adapter(model, folder, step.adapter)
    build.attached.append(folder)


def merge(build: Build) -> None:
    """Folds what is attached into the weights, in the format that they have now.

    On bitsandbytes' weights peft expands each weight, adds the adapter, and quantises again. Into
    group4 weights QA-LoRA merges by moving zeros, and nothing else does.
    """
    model: Any = loaded(build)
    quantization.refuse_repacked(model, "merge")
    if not hasattr(model, "merge_and_unload"):
        return  # a whole fine-tuned model replaced the weights: nothing is on top of them
    layers = quantization.quantized_layers(model).values()
    quantised = sum(not is_group4(layer) for layer in layers)
    with loading.quiet_libraries():
        trim_between_layers(model.base_model)
        merged = model.merge_and_unload()
    build.model = merged.eval().requires_grad_(False)
    build.attached.clear()
    if quantised:
        leave_file(merged)  # of which no other weight is used any more
        build.note(
            f"peft warns for each of {quantised} layers that a merge into quantised weights "
            "rounds again and may change what is generated"
        )


def load_folder(build: Build, folder: Path, bits: Any = None) -> PreTrainedModel:
    """Loads a folder's weights in the dtype that the path computes in."""
    context = build.context
    return loading.load_model(
        folder,
        dtype=loading.torch_dtype(build.load_dtype),
        device_map=context.device_map or {"": "cpu" if context.device == "cpu" else 0},
        quantization=bits,
        trust_remote_code=context.trust_remote_code,
    )


@contextlib.contextmanager
def _written_down(build: Build) -> Iterator[Path]:
    """Files of the weights as they are now: those that others share, or our own for a moment."""
    if build.saved is not None:
        yield build.saved
        return
    scratch = build.context.cache / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch, ignore_cleanup_errors=True) as folder:
        merged = Path(folder) / "merged"
        with written_aside(merged, lasting=False) as aside, loading.quiet_libraries():
            loaded(build).save_pretrained(aside)
        yield merged


def _checkpoint_of_base(step: paths.Quantize, build: Build) -> Path:
    """Where the base weights are kept as this step would store them."""
    identity = {
        "base": build.context.base.digest,
        "quantize": dataclasses.asdict(step) | {"compute_dtype": build.dtype(step.compute_dtype)},
        "dtype": build.load_dtype,
        "device": build.context.device,
    }
    return quantization.cached_checkpoint(build.context.cache, identity)


def _few_bits(step: paths.Quantize, build: Build, folder: Path) -> Any:
    kept = kept_modules(step, folder, trust_remote_code=build.context.trust_remote_code)
    dtype = loading.torch_dtype(build.dtype(step.compute_dtype))
    return quantization.quantization_config(step, dtype, kept)


def loaded(build: Build) -> Any:
    """The model on the way.

    Raises:
        WeightsError: nothing was loaded.
    """
    if build.model is None:
        raise WeightsError("a path must start with load")
    return build.model
