"""The `quantize` step: its record, how a suite writes it, how it is told, what is refused by name.

Pure: no I/O, no torch.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

Dtype = Literal["fp32", "bf16", "fp16", "auto"]
QuantType = Literal["nf4", "fp4", "int8", "group4", "torchao-int8"]
Optimizer = Literal["hqq"]

DTYPES: tuple[str, ...] = get_args(Dtype)
QUANT_TYPES: tuple[str, ...] = get_args(QuantType)
QUANT_NAMES: tuple[str, ...] = (*QUANT_TYPES, "hqq")
"""What a suite may write: the types, and `hqq`, which is group4 with HQQ's solver."""
GROUP_SIZE = 64
"""Of group4, where a suite does not say."""

REFUSED = {
    "hqq": (
        "HQQ is here in 4 bits, in groups along the input, and without its package: write "
        "quantize: hqq, or {type: hqq, group_size: 64}"
    ),
    "quanto": (
        "peft's merge into quanto's weights does nothing and says nothing, so a merged variant "
        "would be the base: use int8 or nf4"
    ),
    "torchao": (
        "of torchao, only torchao-int8 is here: adapters do not merge into its 4 bits, so use nf4 "
        "or group4"
    ),
    "gptq": (
        "GPTQ needs calibration data and the package gptqmodel (pip install gptqmodel), and an "
        "adapter cannot be merged into its codes: use nf4, or group4, whose merge is exact"
    ),
    "awq": (
        "AWQ needs calibration data and the package autoawq (pip install autoawq), and an "
        "adapter cannot be merged into its codes: use nf4, or group4, whose merge is exact"
    ),
    "gguf": (
        "GGUF files are weights to start from (model: ./file.gguf), not a step: transformers "
        "computes with what they dequantise to"
    ),
}
"""What users ask for by name and cannot have, with the reason and the way round."""


@dataclass(frozen=True)
class Quantize:
    """Store the linear layers' weights in few bits.

    nf4, fp4 and int8 (LLM.int8) are bitsandbytes', torchao-int8 is torchao's int8 of weights alone,
    group4 is our own: 4 bits in groups along the input, with a zero that is no integer. A suite's
    hqq is group4 with the zeros chosen by HQQ's solver.
    """

    type: QuantType
    double_quant: bool
    """Quantise the block scales too (nf4 and fp4)."""
    compute_dtype: Dtype | None
    """What matrix products run in; never None in a normalised path."""
    skip_modules: tuple[str, ...] = ()
    """Names of modules that stay in the load dtype."""
    group_size: int | None = None
    """Weights that share a scale and a zero (group4; None for the others)."""
    optimize: Optimizer | None = None
    """Who chooses the zeros of group4: HQQ's solver; None is the range of each group."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" for the nearest of `known`, or "" when none is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean '{near[0]}'?)" if near else ""


def one_of(value: object, allowed: Sequence[str], what: str) -> str:
    """Return a value that is one of `allowed`.

    Raises:
        ValueError: it is not; says what is.
    """
    if isinstance(value, str) and value in allowed:
        return value
    names = ", ".join(allowed)
    if value is None:
        raise ValueError(f"{what} needs an argument (allowed: {names})")
    near = did_you_mean(str(value), allowed)
    raise ValueError(f"{what} cannot be '{value}'{near} (allowed: {names})")


_KEYS = ("type", "double_quant", "compute_dtype", "skip_modules", "group_size", "optimize")


def read_quantize(argument: object, *, load: str) -> Quantize:
    """Return the step that a suite writes as a type's name, or as a mapping.

    `hqq` becomes `group4` with `optimize: hqq`: both are one variant.

    Args:
        argument: as written.
        load: the path's load dtype, which is computed in where nothing else is said.

    Raises:
        ValueError: it is no such step.
    """
    fields: Mapping[Any, Any] = argument if isinstance(argument, Mapping) else {"type": argument}
    for key in fields:
        if key == "block_size":
            raise ValueError("block_size cannot be set: transformers hands none to bitsandbytes")
        if key not in _KEYS:
            near = did_you_mean(str(key), _KEYS)
            raise ValueError(f"unknown key '{key}'{near} (allowed: {', '.join(_KEYS)})")
    name = _read_name(fields.get("type"))
    if name == "hqq":
        fields = {**fields, "optimize": fields.get("optimize") or "hqq"}
    kind = cast(QuantType, "group4" if name == "hqq" else name)
    compute = fields.get("compute_dtype")
    compute = load if compute is None else one_of(compute, DTYPES, "compute_dtype")
    if kind in ("int8", "torchao-int8") and (fields.get("double_quant") or compute != load):
        raise ValueError(f"{kind} has no double quantisation, and computes in the load dtype")
    return Quantize(
        type=kind,
        double_quant=_read_double(fields.get("double_quant"), name),
        compute_dtype=cast(Dtype, compute),
        skip_modules=_read_skip(fields.get("skip_modules") or ()),
        group_size=_read_group_size(fields, kind),
        optimize=_read_optimize(fields, kind),
    )


def _read_name(value: object) -> str:
    for name, reason in REFUSED.items():
        known = isinstance(value, str) and value in QUANT_NAMES
        if isinstance(value, str) and value.lower().startswith(name) and not known:
            raise ValueError(f"quantize cannot be '{value}': {reason}")
    return one_of(value, QUANT_NAMES, "quantize")


def _read_double(value: object, name: str) -> bool:
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"double_quant is true or false, not '{value}'")
    if name in ("group4", "hqq") and value:
        raise ValueError(f"{name} has no double quantisation: its merge needs the zeros exactly")
    return name in ("nf4", "fp4") if value is None else value


def _read_skip(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(n, str) and n for n in value):
        raise ValueError("skip_modules is a list of module names")
    return tuple(value)


def _read_group_size(fields: Mapping[Any, Any], kind: QuantType) -> int | None:
    value = fields.get("group_size")
    if kind != "group4":
        if value is not None:
            raise ValueError(f"group_size goes with group4 and hqq, not with {kind}")
        return None
    if value is None:
        return GROUP_SIZE
    size = int(value) if isinstance(value, str) and value.isdecimal() else value
    if isinstance(size, bool) or not isinstance(size, int) or size < 2 or size % 2:
        raise ValueError(f"group_size is an even number of weights from 2, not '{value}'")
    return size


def _read_optimize(fields: Mapping[Any, Any], kind: QuantType) -> Optimizer | None:
    value = fields.get("optimize")
    if value is None:
        return None
    if kind != "group4":
        raise ValueError(f"optimize goes with group4, not with {kind}")
    return cast(Optimizer, one_of(value, get_args(Optimizer), "optimize"))


def quantize_json(step: Quantize, *, load: str | None) -> str | dict[str, Any]:
    """Return the step as a suite would write it, without what is a default.

    Args:
        step: of a normalised path.
        load: the path's load dtype; a compute dtype equal to it is a default.
    """
    fields: dict[str, Any] = {"type": step.type}
    if step.double_quant != (step.type in ("nf4", "fp4")):
        fields["double_quant"] = step.double_quant
    if step.compute_dtype not in (None, load):
        fields["compute_dtype"] = step.compute_dtype
    if step.skip_modules:
        fields["skip_modules"] = list(step.skip_modules)
    if step.type == "group4":
        # Always: how large a group is decides the bytes, and a default may change.
        fields["group_size"] = step.group_size
        if step.optimize is not None:
            fields["optimize"] = step.optimize
    return fields if len(fields) > 1 else step.type


def describe_quantize(step: Quantize, *, load: str | None) -> str:
    """Return the step in words: "quantise nf4 (no double quantisation)"."""
    notes = []
    if not step.double_quant and step.type in ("nf4", "fp4"):
        notes.append("no double quantisation")
    if step.group_size is not None and step.group_size != GROUP_SIZE:
        notes.append(f"groups of {step.group_size}")
    if step.optimize is not None:
        notes.append(f"optimised by {step.optimize}")
    if load is not None and step.compute_dtype not in (None, load):
        notes.append(f"computes in {step.compute_dtype}")
    if step.skip_modules:
        notes.append(f"without {' '.join(step.skip_modules)}")
    return f"quantise {step.type}" + (f" ({', '.join(notes)})" if notes else "")
