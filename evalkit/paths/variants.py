"""A variant as a path of steps: the verbs, the presets, their normal form, what is legal.

    load        reads base weights in a 16- or 32-bit dtype      first
    quantize    stores the weights in few bits                   on 16/32-bit weights
    dequantize  expands quantised weights, rounding and all      on quantised weights
    attach      puts an adapter on top                           then: attach, merge, or the end
    merge       folds what is attached into the weights          after attach

Everything here is pure: no I/O, no torch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from evalkit.paths.quantize import Quantize
from evalkit.paths.steps import (
    QUANT_NAMES,
    Attach,
    Load,
    Merge,
    Path,
    PathError,
    StepProblem,
)

# ----------------------------------------------------------------------------- presets

_BASES: dict[str, list[object]] = {
    **{dtype: [{"load": dtype}] for dtype in ("fp16", "bf16", "fp32")},
    **{kind: [{"quantize": kind}] for kind in QUANT_NAMES},
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


# ----------------------------------------------------------------------------- what is merged


def merged_adapters(path: Path, full: Collection[str] = ()) -> tuple[str, ...]:
    """Names of the LoRA adapters that a path merges, in its order.

    Args:
        path: normalised.
        full: names of whole fine-tuned models, which are none.
    """
    merges = [index for index, step in enumerate(path) if isinstance(step, Merge)]
    before = path[: merges[-1]] if merges else ()
    names = (step.adapter for step in before if isinstance(step, Attach))
    return tuple(name for name in names if name not in full)


# ----------------------------------------------------------------------------- variant graph


def shared_beginnings(paths: Sequence[Path]) -> tuple[Path, ...]:
    """The beginnings that several paths share, and after which one of them quantises.

    Weights that were made on a path are written to files before they are quantised, so at such a
    place there are files that another variant can start from. Weights that were only loaded are
    left out: those files are there already.

    Args:
        paths: normalised, one for each variant that is built.

    Returns:
        The longest first.
    """
    found = {
        path[:index]
        for path in paths
        for index, step in enumerate(path)
        if isinstance(step, Quantize) and not isinstance(path[index - 1], Load)
    }
    shared = (start for start in found if sum(p[: len(start)] == start for p in paths) > 1)
    return tuple(sorted(shared, key=lambda start: (-len(start), repr(start))))


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
