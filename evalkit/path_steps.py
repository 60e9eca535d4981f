"""The five steps of a path: their records, how a suite writes them, how they are told to people.

Pure: no I/O, no torch.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast, get_args

from evalkit.errors import UsageError

Dtype = Literal["fp32", "bf16", "fp16", "auto"]
QuantType = Literal["nf4", "fp4", "int8"]
AdapterMethod = Literal["lora", "full"]

DTYPES: tuple[str, ...] = get_args(Dtype)
QUANT_TYPES: tuple[str, ...] = get_args(QuantType)
VERBS = ("load", "quantize", "dequantize", "attach", "merge")


@dataclass(frozen=True)
class Load:
    """Read the base weights in `dtype`; "auto" is the checkpoint's own."""

    dtype: Dtype


@dataclass(frozen=True)
class Quantize:
    """Store the linear layers' weights in few bits, with bitsandbytes."""

    type: QuantType
    double_quant: bool
    """Quantise the block scales too (nf4 and fp4)."""
    compute_dtype: Dtype | None
    """What matrix products run in; never None in a normalised path."""
    skip_modules: tuple[str, ...] = ()
    """Names of modules that stay in the load dtype."""


@dataclass(frozen=True)
class Dequantize:
    """Expand quantised weights to `dtype`: the values stay on the quantisation's grid."""

    dtype: Dtype | None
    """Never None in a normalised path."""


@dataclass(frozen=True)
class Attach:
    """Put the suite's adapter of this name on top of the weights."""

    adapter: str


@dataclass(frozen=True)
class Merge:
    """Fold everything attached into the weights, whatever they are stored in now."""


Step: TypeAlias = Load | Quantize | Dequantize | Attach | Merge
Path: TypeAlias = tuple[Step, ...]


@dataclass(frozen=True)
class StepProblem:
    """One thing wrong with a path: `index` counts its steps from 0, None is the path as a whole."""

    index: int | None
    what: str

    def __str__(self) -> str:
        return self.what if self.index is None else f"step {self.index}: {self.what}"


class PathError(UsageError):
    """A path or a preset that cannot be read. Carries every problem found."""

    def __init__(self, problems: Sequence[StepProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" for the nearest of `known`, or "" when none is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean '{near[0]}'?)" if near else ""


# ----------------------------------------------------------------------------- normal form


def normalise(raw: Sequence[object], *, dtype: str) -> Path:
    """Read a path as a suite writes it, and fill in everything it leaves to defaults.

    A missing `load` becomes `load: dtype`. Double quantisation is on for nf4 and fp4; what is
    computed in, and what is expanded to, is the load dtype where nothing else is said.

    Args:
        raw: bare verbs ("merge", "dequantize") and mappings of one verb to its argument.
        dtype: the suite's dtype, for a path that does not start with `load`.

    Raises:
        PathError: an unknown verb or a wrong argument; every one of them.
    """
    if not raw:
        raise PathError([StepProblem(None, "a path needs at least one step")])
    problems: list[StepProblem] = []
    steps: list[Step] = []
    load = dtype
    for index, item in enumerate(raw):
        try:
            step = _read_step(item, load=load)
        except ValueError as error:
            problems.append(StepProblem(index, str(error)))
            continue
        if index == 0 and isinstance(step, Load):
            load = step.dtype
        elif index == 0:
            steps.append(Load(cast(Dtype, dtype)))
        steps.append(step)
    if problems:
        raise PathError(problems)
    return tuple(steps)


def _read_step(item: object, *, load: str) -> Step:
    verb, argument = _verb_and_argument(item)
    if verb == "load":
        return Load(cast(Dtype, _one_of(argument, DTYPES, "load")))
    if verb == "quantize":
        return _read_quantize(argument, load=load)
    if verb == "dequantize":
        dtype = load if argument is None else _one_of(argument, DTYPES, "dequantize")
        return Dequantize(cast(Dtype, dtype))
    if verb == "attach":
        if not isinstance(argument, str) or not argument:
            raise ValueError("attach takes the name of one adapter, as in 'attach: my-adapter'")
        return Attach(argument)
    if argument not in (None, True):
        raise ValueError("merge takes no argument")
    return Merge()


def _verb_and_argument(item: object) -> tuple[str, object]:
    if isinstance(item, str):
        verb, argument = item, None
    elif isinstance(item, Mapping) and len(item) == 1:
        verb, argument = next(iter(item.items()))
    elif isinstance(item, Mapping) and item:
        raise ValueError(f"one step a line: this one has {', '.join(map(repr, item))}")
    else:
        raise ValueError(f"a step is one of {', '.join(VERBS)}")
    if verb not in VERBS:
        near = f" (did you mean 'quantize: {verb}'?)" if verb in QUANT_TYPES else ""
        near = near or (f" (did you mean 'load: {verb}'?)" if verb in DTYPES else "")
        near = near or did_you_mean(str(verb), VERBS)
        raise ValueError(f"unknown step '{verb}'{near} (allowed: {', '.join(VERBS)})")
    return str(verb), argument


def _one_of(value: object, allowed: Sequence[str], what: str) -> str:
    if isinstance(value, str) and value in allowed:
        return value
    names = ", ".join(allowed)
    if value is None:
        raise ValueError(f"{what} needs an argument (allowed: {names})")
    near = did_you_mean(str(value), allowed)
    raise ValueError(f"{what} cannot be '{value}'{near} (allowed: {names})")


_QUANTIZE_KEYS = ("type", "double_quant", "compute_dtype", "skip_modules")


def _read_quantize(argument: object, *, load: str) -> Quantize:
    fields: Mapping[Any, Any] = argument if isinstance(argument, Mapping) else {"type": argument}
    for key in fields:
        if key == "block_size":
            raise ValueError("block_size cannot be set: transformers hands none to bitsandbytes")
        if key not in _QUANTIZE_KEYS:
            near = did_you_mean(str(key), _QUANTIZE_KEYS)
            raise ValueError(f"unknown key '{key}'{near} (allowed: {', '.join(_QUANTIZE_KEYS)})")
    kind = cast(QuantType, _one_of(fields.get("type"), QUANT_TYPES, "quantize"))
    double = fields.get("double_quant")
    if double is not None and not isinstance(double, bool):
        raise ValueError(f"double_quant is true or false, not '{double}'")
    compute = fields.get("compute_dtype")
    compute = load if compute is None else _one_of(compute, DTYPES, "compute_dtype")
    if kind == "int8" and (double or compute != load):
        raise ValueError("int8 has no double quantisation, and computes in the load dtype")
    skip = fields.get("skip_modules") or ()
    if not isinstance(skip, list | tuple) or not all(isinstance(n, str) and n for n in skip):
        raise ValueError("skip_modules is a list of module names")
    return Quantize(
        type=kind,
        double_quant=kind != "int8" if double is None else double,
        compute_dtype=cast(Dtype, compute),
        skip_modules=tuple(skip),
    )


# ----------------------------------------------------------------------------- writing


def step_json(step: Step, *, load: str | None = None) -> dict[str, Any]:
    """Return a step as a suite would write it, as JSON: `{"quantize": "nf4"}`.

    Args:
        step: a step of a normalised path.
        load: the path's load dtype; a compute dtype equal to it is a default and left out.
    """
    if isinstance(step, Load):
        return {"load": step.dtype}
    if isinstance(step, Quantize):
        return {"quantize": _quantize_json(step, load=load)}
    if isinstance(step, Dequantize):
        return {"dequantize": step.dtype}
    if isinstance(step, Attach):
        return {"attach": step.adapter}
    return {"merge": True}


def _quantize_json(step: Quantize, *, load: str | None) -> str | dict[str, Any]:
    fields: dict[str, Any] = {"type": step.type}
    if step.double_quant != (step.type != "int8"):
        fields["double_quant"] = step.double_quant
    if step.compute_dtype not in (None, load):
        fields["compute_dtype"] = step.compute_dtype
    if step.skip_modules:
        fields["skip_modules"] = list(step.skip_modules)
    return fields if len(fields) > 1 else step.type


def path_json(path: Path) -> tuple[dict[str, Any], ...]:
    """Return a normalised path as JSON; `path_from_json` gives the same path back."""
    load = path[0].dtype if path and isinstance(path[0], Load) else None
    return tuple(step_json(step, load=load) for step in path)


def path_from_json(steps: Sequence[Mapping[str, Any]]) -> Path:
    """Return the path that `path_json` wrote.

    Raises:
        PathError: it is no such path.
    """
    return normalise(steps, dtype="fp16")


def describe(steps: Sequence[Step]) -> str:
    """Return steps in words: "quantise nf4, attach guanaco, merge"."""
    load = next((step.dtype for step in steps if isinstance(step, Load)), None)
    return ", ".join(_describe(step, load=load) for step in steps)


def _describe(step: Step, *, load: str | None) -> str:
    if isinstance(step, Load):
        return f"load {step.dtype}"
    if isinstance(step, Dequantize):
        return f"dequantise to {step.dtype}"
    if isinstance(step, Attach):
        return f"attach {step.adapter}"
    if isinstance(step, Merge):
        return "merge"
    notes = []
    if not step.double_quant and step.type != "int8":
        notes.append("no double quantisation")
    if load is not None and step.compute_dtype not in (None, load):
        notes.append(f"computes in {step.compute_dtype}")
    if step.skip_modules:
        notes.append(f"without {' '.join(step.skip_modules)}")
    return f"quantise {step.type}" + (f" ({', '.join(notes)})" if notes else "")
