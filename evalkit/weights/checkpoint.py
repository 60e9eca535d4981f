"""Reads what a checkpoint's files say about themselves, before anything is loaded. No torch."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from evalkit.errors import WeightsError
from evalkit.weight_files import how_to_convert, read_json, refuse_links_out

_LONGEST_HEADER = 100_000_000  # the safetensors format's own limit, in bytes


_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U16": 16, "I16": 16, "F16": 16,
    "BF16": 16, "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
"""Bits of a number of each dtype of the format."""


_Whole = Annotated[int, Field(ge=0, strict=True)]


class _Entry(BaseModel):
    """A tensor as a header describes it."""

    dtype: str
    shape: tuple[_Whole, ...]
    data_offsets: tuple[_Whole, _Whole]


_Header = TypeAdapter(dict[str, _Entry])
_Metadata = TypeAdapter(dict[str, str])


@dataclass(frozen=True)
class TensorHeader:
    """One tensor of a safetensors file: its dtype by the format's name ("BF16") and its shape."""

    dtype: str
    shape: tuple[int, ...]


def read_headers(file: Path) -> dict[str, TensorHeader]:
    """Reads the names, dtypes and shapes in a safetensors file, and checks that it is whole.

    What the format promises is checked: the tensors lie one behind the other and fill the file,
    and each is as long as its dtype and shape say.

    Raises:
        WeightsError: the file cannot be read, is cut short, or is no safetensors file.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 0 < length <= min(_LONGEST_HEADER, size - 8):
                raise _damaged(file)
            header = json.loads(stream.read(length), object_pairs_hook=_without_twins)
    except OSError as error:
        raise WeightsError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise _damaged(file) from error
    try:
        _Metadata.validate_python(header.pop("__metadata__", {}))
        entries = _Header.validate_python(header)
    except (AttributeError, ValidationError) as error:
        raise _damaged(file) from error
    end = max((entry.data_offsets[1] for entry in entries.values()), default=0)
    if 8 + length + end != size:
        raise WeightsError(
            f"{file}: is damaged: {size:,} bytes long where its header promises "
            f"{8 + length + end:,}. Copy or download it again"
        )
    _check_places(file, entries)
    return {name: TensorHeader(entry.dtype, entry.shape) for name, entry in entries.items()}


def _check_places(file: Path, entries: Mapping[str, _Entry]) -> None:
    """Refuses tensors that overlap, leave a gap, or are not as long as they say."""
    reached = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        begin, end = entry.data_offsets
        if begin != reached or end < begin:
            what = "overlaps another tensor" if begin < reached else "lies behind a gap"
            raise WeightsError(f"{file}: its header is damaged: {name} {what}")
        reached = end
        bits = _BITS.get(entry.dtype)
        if bits is None:
            raise WeightsError(f"{file}: {name}: its dtype {entry.dtype!r:.20} is not known")
        if _elements(entry.shape) * bits != 8 * (end - begin):
            raise WeightsError(
                f"{file}: its header is damaged: {name} is {end - begin:,} bytes long, which is "
                f"not {entry.dtype} of shape {list(entry.shape)}"
            )


def _damaged(file: Path) -> WeightsError:
    return WeightsError(f"{file}: is no safetensors file: its header is damaged")


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object in which no key is given twice: readers differ in which they take."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def checkpoint_headers(folder: Path) -> dict[str, TensorHeader]:
    """Reads the headers of all safetensors files of a model's folder, and of its index.

    Raises:
        WeightsError: a file is damaged, is missing although the index names it, or there is none.
    """
    index_file = folder / "model.safetensors.index.json"
    if index_file.is_file():
        shards = _shards(index_file)
        missing = [name for name in shards if not (folder / name).is_file()]
        if missing:
            raise WeightsError(f"{folder}: {missing[0]} is missing, though the index names it")
        files = [folder / name for name in shards]
        refuse_links_out(folder, files)
    else:
        files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise WeightsError(f"{folder}: has no .safetensors file{how_to_convert(folder)}")
    return {name: tensor for file in files for name, tensor in read_headers(file).items()}


def _shards(index_file: Path) -> list[str]:
    """The files that an index names: they lie beside it, and nowhere else."""
    named = read_json(index_file).get("weight_map")
    if not isinstance(named, dict) or not named:
        raise WeightsError(f"{index_file}: has no weight_map of tensors to files")
    for tensor, name in named.items():
        if not isinstance(name, str) or not re.fullmatch(r"[^/\\\0]*\.safetensors", name):
            raise WeightsError(
                f"{index_file}: {tensor} is said to be in {name!r:.80}; only files in the same "
                "folder are read"
            )
    return sorted(set(named.values()))


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


def _elements(shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count
