"""Reads base weights: safetensors folders, and GGUF files converted once."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from evalkit.errors import MachineError, WeightsError
from evalkit.records import OnProgress, Progress
from evalkit.seals import is_unbroken
from evalkit.sources import WeightsSource
from evalkit.weights.checkpoint import check_checkpoint, is_encoder_decoder, stored_dtype
from evalkit.weights.folders import is_disk_full, written_aside
from evalkit.weights.group4_loading import register_group4
from evalkit.weights.heap import leave_file, trim_between_quantizations
from evalkit.weights.quantization import (
    disable_repacking,
    forget_quantization,
    quantized_layers,
)

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig, PreTrainedModel

_CONVERSION = 1
"""Part of a converted folder's name: raised when a conversion yields other files."""


def prepare_base(
    source: WeightsSource, cache: Path, *, on_progress: OnProgress, job: str = "prepare weights"
) -> Path:
    """Gives the folder (safetensors, configuration, tokenizer) that every variant is loaded from.

    A GGUF file is dequantised to float16 once, under a lock; a folder is checked and used as it is.

    Raises:
        WeightsError: the files are damaged, quantised, or cannot be converted.
    """
    if source.kind == "folder":
        check_checkpoint(source.folder)
        return source.folder
    folder = converted_folder(source, cache)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if not is_unbroken(folder, cache):
            on_progress(Progress(job, "convert GGUF (once)", 0, None))
            with written_aside(folder, sealed=True) as aside:
                _convert_gguf(source, aside)
    check_checkpoint(folder)
    return folder


def converted_folder(source: WeightsSource, cache: Path) -> Path:
    """Where the conversion of a GGUF source is kept: made again by another version of gguf."""
    version = importlib.metadata.version("gguf")
    return cache / "bases" / f"{source.digest[:16]}-{_CONVERSION}-{version}"


def load_model(
    folder: Path,
    *,
    dtype: torch.dtype,
    device_map: str | dict[str, Any],
    quantization: BitsAndBytesConfig | Any | None = None,
    trust_remote_code: bool = False,
) -> PreTrainedModel:
    """Loads a language model freshly from safetensors, in eval mode, nothing trainable.

    Args:
        folder: as save_pretrained writes it.
        dtype: of what is not quantised.
        device_map: where to put it, as transformers takes it.
        quantization: quantises while loading; None also for a checkpoint that is quantised.
        trust_remote_code: run the modelling code in the folder.

    Raises:
        WeightsError: the folder cannot be loaded, or lacks weights that the model needs.
        MachineError: it does not fit into memory.
    """
    disable_repacking()
    register_group4()
    import torch

    try:
        with quiet_libraries(), trim_between_quantizations():
            model, report = auto_class(folder).from_pretrained(
                folder,
                dtype=dtype,
                device_map=device_map,
                trust_remote_code=trust_remote_code,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                # Even None would hide the quantisation that a checkpoint's configuration names.
                **({"quantization_config": quantization} if quantization else {}),
            )
    except torch.OutOfMemoryError as error:
        raise MachineError(f"{folder}: does not fit into the device's memory: {error}") from error
    except Exception as error:  # transformers, safetensors and torch raise whatever they meet
        raise WeightsError(f"{folder}: cannot be loaded: {why(error)}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise WeightsError(
            f"{folder}: lacks {len(missing)} of the model's weights ({missing[0]}, ...); "
            "transformers would fill them with random numbers"
        )
    if quantization is not None and not quantized_layers(model):
        raise WeightsError(
            f"{folder}: nothing of this {type(model).__name__} was quantised: it has no layer of a "
            "kind that this quantisation takes"
        )
    if quantization is not None:
        leave_file(model)
    loaded: PreTrainedModel = model.eval().requires_grad_(False)
    return loaded


def auto_class(folder: Path) -> Any:
    """Transformers' class for what is in a folder: causal, or with an encoder and a decoder."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    return AutoModelForSeq2SeqLM if is_encoder_decoder(folder) else AutoModelForCausalLM


def torch_dtype(name: str) -> torch.dtype:
    """Gives torch's dtype for "fp32", "bf16" or "fp16"."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[name]


def effective_dtype(name: str, folder: Path, effective: dict[str, str]) -> str:
    """What a path's dtype name means for these weights on this machine: "fp32", "bf16", "fp16".

    Args:
        name: as the path says, "auto" included.
        folder: the base weights, whose own dtype "auto" is.
        effective: what each dtype is really computed in here.
    """
    named = stored_dtype(folder) if name == "auto" else name
    return effective.get(named, named)


@contextlib.contextmanager
def quiet_libraries() -> Iterator[list[str]]:
    """Keeps the libraries' progress bars and warnings off the terminal; collects the warnings.

    Yields:
        The distinct warnings so far, in order; filled when the block ends.
    """
    from transformers.utils import logging as library_logging

    collected: list[str] = []
    verbosity = library_logging.get_verbosity()
    bars = library_logging.is_progress_bar_enabled()
    library_logging.set_verbosity_error()
    library_logging.disable_progress_bar()
    root = logging.getLogger("accelerate")
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield collected
        collected.extend(dict.fromkeys(str(warning.message) for warning in caught))
    finally:
        root.setLevel(level)
        library_logging.set_verbosity(verbosity)
        if bars:
            library_logging.enable_progress_bar()


def _convert_gguf(source: WeightsSource, out: Path) -> None:
    """Dequantises a GGUF file into a folder of safetensors, with its tokenizer.

    The numbers are those of the file: scale times code, rounded once to float16, which holds them
    eight times finer than bfloat16 does.
    """
    disable_repacking()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    try:
        with quiet_libraries(), _metadata_read_once():
            model = AutoModelForCausalLM.from_pretrained(
                source.folder,
                gguf_file=source.filename,
                dtype=torch.float16,
                quantization_config=GgufConfig(dequantize=True),
                local_files_only=True,
            )
            tokenizer = AutoTokenizer.from_pretrained(
                source.folder, gguf_file=source.filename, local_files_only=True
            )
            model.config = _clean_config(model.config)
            forget_quantization(model)
            model.save_pretrained(out)
            tokenizer.save_pretrained(out)
    except Exception as error:
        if is_disk_full(error):
            raise
        raise WeightsError(f"{source.origin}: cannot be converted: {why(error)}") from error


@contextlib.contextmanager
def _metadata_read_once() -> Iterator[None]:
    """Spares transformers parsing a GGUF file three times, and its map of names 400 times.

    This takes half a minute off the conversion of a model of 135 million parameters.
    """
    import gguf
    import transformers.modeling_gguf_pytorch_utils as reading

    names = ("GGUFReader", "get_tensor_name_map")
    originals = {name: getattr(gguf, name) for name in names}
    bar = reading.tqdm
    for name, original in originals.items():
        setattr(gguf, name, functools.cache(original))
    reading.tqdm = functools.partial(bar, disable=True)
    try:
        yield
    finally:
        reading.tqdm = bar
        for name, original in originals.items():
            setattr(gguf, name, original)


def _clean_config(config: Any) -> Any:
    """The configuration without what says that its weights are packed in a GGUF file."""
    fields = config.to_dict()
    for field in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        fields.pop(field, None)
    return type(config).from_dict(fields)


def why(error: Exception) -> str:
    """What a library's error says, in one line; of code that would have to run, what to do."""
    text = " ".join(str(error).split())
    if "trust_remote_code=True" in text:
        return (
            "it needs code that comes with it. If you have read that code and trust it, set "
            "model.trust_remote_code: true and run with --trust-remote-code"
        )
    return f"{type(error).__name__}: {text[:400]}" if text else type(error).__name__
