"""Records as bytes and JSON, and back, bit for bit."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evalkit.records import Budget, Float64s, Gate, JsonObject, Sample, Verdict

_OWN_COLUMNS = {"gate", "verdict", "ok"}
_BUDGETS = ("max_increase", "max_decrease")


FLOAT64_BYTES = 8
"""That `pack_float64` takes for each value."""


def pack_float64(values: Float64s) -> bytes:
    """Any one-dimensional float64 array as little-endian bytes, 8 a value."""
    return np.ascontiguousarray(values, dtype="<f8").tobytes()


def unpack_float64(blob: bytes) -> Float64s:
    """The array that `pack_float64` was given, in this machine's byte order."""
    return np.frombuffer(blob, dtype="<f8").astype(np.float64, copy=False)


def pack_float32(values: NDArray[np.float32]) -> bytes:
    """Any one-dimensional float32 array as little-endian bytes, 4 a value."""
    return np.ascontiguousarray(values, dtype="<f4").tobytes()


def unpack_float32(blob: bytes) -> NDArray[np.float32]:
    """The array that `pack_float32` was given, in this machine's byte order."""
    return np.frombuffer(blob, dtype="<f4").astype(np.float32, copy=False)


def pack_json(value: object) -> bytes:
    """A JSON value, compressed: texts that repeat take little room.

    Every character outside ASCII is escaped, so that lone surrogates come back too, and what is
    bytes may hold NUL in every database.
    """
    return zlib.compress(json.dumps(value, separators=(",", ":")).encode("ascii"))


def unpack_json(blob: bytes) -> Any:
    """The value that `pack_json` was given; tuples are lists."""
    return json.loads(zlib.decompress(blob))


def units_digest(ids: Sequence[str], clusters: Sequence[str], counts: bytes) -> str:
    """SHA-256 over unit ids, their clusters and their packed counts, in order."""
    digest = hashlib.sha256(json.dumps([list(ids), list(clusters)]).encode())
    digest.update(counts)
    return digest.hexdigest()


def storable_text(text: str) -> str:
    """Text that every database takes: what is no valid UTF-8 (file names, say) is escaped.

    So is NUL, which PostgreSQL has no room for.
    """
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\x00")


def sample_json(sample: Sample) -> JsonObject:
    """A generated text as JSON."""
    return {"prompt": sample.prompt, "text": sample.text, "tokens": list(sample.tokens)}


def sample_from_json(value: Mapping[str, Any]) -> Sample:
    """The sample that `sample_json` was given."""
    return Sample(
        prompt=value["prompt"], text=value["text"], tokens=tuple(map(str, value["tokens"]))
    )


def gate_json(gate: Gate) -> JsonObject:
    """A gate as JSON, every field by its name."""
    return asdict(gate)


def gate_from_json(value: Mapping[str, Any]) -> Gate:
    """The gate that `gate_json` was given; fields added since then take their defaults."""
    known = {field.name: value[field.name] for field in fields(Gate) if field.name in value}
    for name in _BUDGETS:
        if known.get(name) is not None:
            known[name] = Budget(**known[name])
    return Gate(**known)


def verdict_details(verdict: Verdict) -> JsonObject:
    """A verdict's fields that have no column of their own."""
    names = [field.name for field in fields(Verdict) if field.name not in _OWN_COLUMNS]
    return {name: getattr(verdict, name) for name in names}


def verdict_from_json(gate: Gate, name: str, ok: bool, details: Mapping[str, Any]) -> Verdict:
    """The verdict that `verdict_details` was given, with its columns."""
    known = {field.name for field in fields(Verdict)} - _OWN_COLUMNS
    rest = {key: value for key, value in details.items() if key in known}
    return Verdict(gate=gate, verdict=name, ok=ok, **rest)  # type: ignore[arg-type]
