"""Reads what a checkpoint's files say about themselves, before anything is loaded. No torch."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.errors import WeightsError

_LONGEST_HEADER = 100_000_000  # the safetensors format's own limit, in bytes


@dataclass(frozen=True)
class TensorHeader:
    """One tensor of a safetensors file: its dtype by the format's name ("BF16") and its shape."""

    dtype: str
    shape: tuple[int, ...]


def read_headers(file: Path) -> dict[str, TensorHeader]:
    """Reads the names, dtypes and shapes in a safetensors file, and checks that it is whole.

    Raises:
        WeightsError: the file cannot be read, is cut short, or is no safetensors file.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 0 < length <= min(_LONGEST_HEADER, size - 8):
                raise WeightsError(f"{file}: is no safetensors file: its header is damaged")
            header = json.loads(stream.read(length))
    except OSError as error:
        raise WeightsError(f"{file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise WeightsError(f"{file}: is no safetensors file: its header is damaged") from error
    try:
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        tensors = {
            name: TensorHeader(entry["dtype"], tuple(entry["shape"]))
            for name, entry in header.items()
        }
    except (AttributeError, KeyError, TypeError, IndexError) as error:
        raise WeightsError(f"{file}: is no safetensors file: its header is damaged") from error
    if 8 + length + end != size:
        raise WeightsError(
            f"{file}: is damaged: {size:,} bytes long where its header promises "
            f"{8 + length + end:,}. Copy or download it again"
        )
    return tensors


def checkpoint_headers(folder: Path) -> dict[str, TensorHeader]:
    """Reads the headers of all safetensors files of a model's folder, and of its index.

    Raises:
        WeightsError: a file is damaged, is missing although the index names it, or there is none.
    """
    index_file = folder / "model.safetensors.index.json"
    if index_file.is_file():
        shards = sorted(set(read_json(index_file).get("weight_map", {}).values()))
        missing = [name for name in shards if not (folder / name).is_file()]
        if missing:
            raise WeightsError(f"{folder}: {missing[0]} is missing, though the index names it")
        files = [folder / name for name in shards]
    else:
        files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise WeightsError(f"{folder}: has no .safetensors file{_how_to_convert(folder)}")
    return {name: tensor for file in files for name, tensor in read_headers(file).items()}


def check_checkpoint(folder: Path) -> None:
    """Refuses a model's folder that cannot be a base, before loading it.

    Raises:
        WeightsError: a safetensors file is damaged or missing, or the weights are quantised.
    """
    quantised_by = read_json(folder / "config.json").get("quantization_config")
    if quantised_by:
        method = quantised_by.get("quant_method") or "an unknown method"
        raise WeightsError(
            f"{folder}: its weights are quantised already (by {method}). evalkit quantises on the "
            "path, so that it knows what was there before: name the 16-bit model and put "
            "'quantize' on the paths"
        )
    checkpoint_headers(folder)


def is_encoder_decoder(folder: Path) -> bool:
    """Whether a model's configuration says that it has an encoder and a decoder (T5, BART)."""
    return bool(read_json(folder / "config.json").get("is_encoder_decoder"))


def stored_dtype(folder: Path) -> str:
    """The dtype of a checkpoint by its configuration, else of its largest tensor: "fp16" and so on.

    Raises:
        WeightsError: the checkpoint stores numbers that no `load` can read.
    """
    config = read_json(folder / "config.json")
    named = config.get("dtype") or config.get("torch_dtype")
    if not named:
        headers = checkpoint_headers(folder).values()
        named = max(headers, key=lambda tensor: _elements(tensor.shape)).dtype
    short = {
        "float16": "fp16", "bfloat16": "bf16", "float32": "fp32", "float64": "fp32",
        "F16": "fp16", "BF16": "bf16", "F32": "fp32", "F64": "fp32",
    }.get(str(named))  # fmt: skip
    if short is None:
        raise WeightsError(f"{folder}: its dtype {named} is none of fp16, bf16, fp32")
    return short


def read_json(file: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        WeightsError: the file is not there, or holds something else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsError(f"{file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise WeightsError(f"{file}: is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{file}: is not a JSON object")
    return content


def _how_to_convert(folder: Path) -> str:
    pickled = sorted(
        file.name for suffix in ("bin", "pt", "pth") for file in folder.glob(f"*.{suffix}")
    )
    if not pickled:
        return ""
    return (
        f"; {pickled[0]} is a pickle, which can run code when it is read. Convert it where you "
        "trust it: AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(FOLDER)"
    )


def _elements(shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count
