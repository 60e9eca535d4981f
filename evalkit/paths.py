"""A variant as a path of steps: the verbs, the presets, their normal form, what is legal.

    load        reads base weights in a 16- or 32-bit dtype      first
    quantize    stores the weights in few bits                   on 16/32-bit weights
    dequantize  expands quantised weights, rounding and all      on quantised weights
    attach      puts an adapter on top                           then: attach, merge, or the end
    merge       folds what is attached into the weights          after attach

Everything here is pure: no I/O, no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evalkit.path_steps import (
    DTYPES,
    QUANT_TYPES,
    VERBS,
    AdapterMethod,
    Attach,
    Dequantize,
    Dtype,
    Load,
    Merge,
    Path,
    PathError,
    Quantize,
    QuantType,
    Step,
    StepProblem,
    describe,
    did_you_mean,
    normalise,
    path_from_json,
    path_json,
    step_json,
)

__all__ = [
    "DTYPES",
    "PRESETS",
    "PRESETS_WITH_ADAPTER",
    "QUANT_TYPES",
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
    "VariantGraph",
    "check",
    "describe",
    "did_you_mean",
    "normalise",
    "path_from_json",
    "path_json",
    "preset_path",
    "step_json",
]

# ----------------------------------------------------------------------------- presets

_BASES: dict[str, list[object]] = {
    **{dtype: [{"load": dtype}] for dtype in ("fp16", "bf16", "fp32")},
    **{kind: [{"quantize": kind}] for kind in QUANT_TYPES},
}
_ADAPTER = object()
"""Stands for the suite's adapter in the presets below."""
_WITH_ADAPTER: dict[str, list[object]] = {
    **{f"{base}+adapter": [*steps, _ADAPTER] for base, steps in _BASES.items()},
    "merged-4bit": [{"quantize": "nf4"}, _ADAPTER, "merge"],
    "dequant-merged": [{"quantize": "nf4"}, "dequantize", _ADAPTER, "merge"],
    "requantized": [{"quantize": "nf4"}, "dequantize", _ADAPTER, "merge", {"quantize": "nf4"}],
    "fp16-merged": [{"load": "fp16"}, _ADAPTER, "merge"],
    "fp16-merged-nf4": [{"load": "fp16"}, _ADAPTER, "merge", {"quantize": "nf4"}],
}
PRESETS_WITH_ADAPTER: tuple[str, ...] = tuple(_WITH_ADAPTER)
PRESETS: tuple[str, ...] = (*_BASES, *_WITH_ADAPTER)
"""Names that may stand for a path. `BASE+NAME` picks one of several adapters."""


def preset_path(name: str, adapters: Sequence[str]) -> list[object] | None:
    """Return the path, as a suite would write it out, that a bare name stands for.

    Args:
        name: a preset's name, or `BASE+NAME` with the name of one of the adapters.
        adapters: the names of the suite's adapters.

    Returns:
        The raw path for `normalise`, or None where `name` is no preset.

    Raises:
        PathError: the preset needs an adapter, and the suite has none, or several.
    """
    if name in _BASES:
        return list(_BASES[name])
    base, _, adapter = name.partition("+")
    if base in _BASES and adapter in adapters:
        return [*_BASES[base], {"attach": adapter}]
    if name not in _WITH_ADAPTER:
        return None
    if len(adapters) == 1:
        attach = {"attach": adapters[0]}
        return [attach if step is _ADAPTER else step for step in _WITH_ADAPTER[name]]
    raise PathError([StepProblem(None, _which_adapter(name, adapters))])


def _which_adapter(name: str, adapters: Sequence[str]) -> str:
    """Say why a preset with an adapter has no single meaning, and what to write instead."""
    if not adapters:
        return f"'{name}' needs an adapter, and the suite has none under 'adapters'"
    if name.endswith("+adapter"):
        names = ", ".join(f"'{name.removesuffix('adapter')}{adapter}'" for adapter in adapters)
        return f"'{name}' does not say which adapter: use one of {names}"
    attach = f"attach: {adapters[0]}"
    steps = (attach if step is _ADAPTER else _as_yaml(step) for step in _WITH_ADAPTER[name])
    return (
        f"'{name}' does not say which of {len(adapters)} adapters: write the path out, "
        f"as in [{', '.join(steps)}]"
    )


def _as_yaml(step: object) -> str:
    if isinstance(step, dict):
        return ", ".join(f"{verb}: {argument}" for verb, argument in step.items())
    return str(step)


# ----------------------------------------------------------------------------- legality


def check(path: Path, *, adapters: Mapping[str, AdapterMethod]) -> list[StepProblem]:
    """Return everything that makes a normalised path illegal, in the order of its steps.

    Args:
        path: a normalised path.
        adapters: the method of each of the suite's adapters. "full" is a whole fine-tuned model:
            attaching it replaces the weights, so it only goes directly on loaded ones.
    """
    problems: list[StepProblem] = []
    quantised: str | None = None
    attached: list[str] = []
    for index, step in enumerate(path):
        what = _illegal(step, index=index, quantised=quantised, attached=attached)
        if what is None and isinstance(step, Attach):
            what = _illegal_attach(step, path[:index], attached=attached, adapters=adapters)
        if what is not None:
            problems.append(StepProblem(index, what))
        # The state moves on as if the step were legal: one mistake gives one message.
        if isinstance(step, Quantize):
            quantised, attached = step.type, []
        elif isinstance(step, Dequantize):
            quantised, attached = None, []
        elif isinstance(step, Attach):
            attached = [*attached, step.adapter]
        elif isinstance(step, Merge):
            attached = []
    return problems


def _illegal(step: Step, *, index: int, quantised: str | None, attached: list[str]) -> str | None:
    if isinstance(step, Load):
        return None if index == 0 else "load comes first: a path reads its weights once"
    if index == 0:
        return f"a path starts with load, not with {describe([step])}"
    if isinstance(step, Quantize | Dequantize) and attached:
        return (
            f"{_verb(step)} with '{attached[-1]}' attached: after attach a path ends, attaches "
            "another, or merges (put 'merge' before this step)"
        )
    if isinstance(step, Quantize) and quantised:
        return f"the weights are {quantised} already: put 'dequantize' before this step"
    if isinstance(step, Dequantize) and not quantised:
        return "dequantize of weights that are not quantised: put 'quantize' before this step"
    if isinstance(step, Merge) and not attached:
        return "merge with nothing attached: put 'attach' before this step"
    return None


def _illegal_attach(
    step: Attach, before: Path, *, attached: list[str], adapters: Mapping[str, AdapterMethod]
) -> str | None:
    if step.adapter not in adapters:
        near = did_you_mean(step.adapter, adapters)
        names = ", ".join(adapters) or "the suite has none"
        return f"unknown adapter '{step.adapter}'{near} (allowed: {names})"
    if step.adapter in attached:
        return f"'{step.adapter}' is attached already"
    if adapters[step.adapter] == "full" and len(before) != 1:
        return (
            f"'{step.adapter}' is a fully fine-tuned model (method: full) and replaces the "
            "weights: attach it directly after load"
        )
    return None


def _verb(step: Step) -> str:
    return type(step).__name__.lower()


# ----------------------------------------------------------------------------- variant graph


class VariantGraph:
    """Which variant each one continues, by the normalised paths.

    Args:
        paths: the normalised path of every scored variant, in the suite's order.
    """

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self._paths = dict(paths)

    def nearest_ancestor(self, name: str) -> str | None:
        """Return the variant whose path is the longest proper beginning of this one's."""
        path = self._paths[name]
        ancestors = [
            other
            for other, steps in self._paths.items()
            if len(steps) < len(path) and path[: len(steps)] == steps
        ]
        return max(ancestors, key=lambda other: len(self._paths[other]), default=None)

    def edge(self, name: str) -> Path:
        """Return the steps from the nearest ancestor to this variant; all of them without one."""
        parent = self.nearest_ancestor(name)
        return self._paths[name][len(self._paths[parent]) if parent is not None else 0 :]
