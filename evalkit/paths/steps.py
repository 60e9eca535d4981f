"""The five steps of a path: their records, how a suite writes them, how they are told to people.

Pure: no I/O, no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

from evalkit.errors import UsageError
from evalkit.paths.quantize import (
    DTYPES,
    QUANT_NAMES,
    Dtype,
    Quantize,
    QuantType,
    describe_quantize,
    did_you_mean,
    one_of,
    quantize_json,
    read_quantize,
)

__all__ = [
    "DTYPES",
    "QUANT_NAMES",
    "VERBS",
    "AdapterMethod",
    "Attach",
    "Dequantize",
    "Dtype",
    "Load",
    "Merge",
    "Path",
    "PathError",
    "QuantType",
    "Quantize",
    "Step",
    "StepProblem",
    "describe",
    "did_you_mean",
    "normalise",
    "path_from_json",
    "path_json",
    "step_json",
]

AdapterMethod = Literal["lora", "qa-lora", "loftq", "pissa", "full", "ready"]
"""What an adapter is, as far as a path must know. "full" is a whole fine-tuned model; of a
"ready" one, taken from somewhere, the rest is seen when it is attached."""

VERBS = ("load", "quantize", "dequantize", "attach", "merge")


@dataclass(frozen=True)
class Load:
    """Read the base weights in `dtype`; "auto" is the checkpoint's own."""

    dtype: Dtype


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
        return Load(cast(Dtype, one_of(argument, DTYPES, "load")))
    if verb == "quantize":
        return read_quantize(argument, load=load)
    if verb == "dequantize":
        dtype = load if argument is None else one_of(argument, DTYPES, "dequantize")
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
        near = f" (did you mean 'quantize: {verb}'?)" if verb in QUANT_NAMES else ""
        near = near or (f" (did you mean 'load: {verb}'?)" if verb in DTYPES else "")
        near = near or did_you_mean(str(verb), VERBS)
        raise ValueError(f"unknown step '{verb}'{near} (allowed: {', '.join(VERBS)})")
    return str(verb), argument


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
        return {"quantize": quantize_json(step, load=load)}
    if isinstance(step, Dequantize):
        return {"dequantize": step.dtype}
    if isinstance(step, Attach):
        return {"attach": step.adapter}
    return {"merge": True}


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
    return describe_quantize(step, load=load)
