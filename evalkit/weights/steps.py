"""The walk along a path that builds a variant."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from evalkit import paths
from evalkit.records import OnProgress, Progress
from evalkit.weights import loading, quantization, verbs
from evalkit.weights.beginnings import Beginning, keep, longest_kept
from evalkit.weights.building import BuildContext, BuiltVariant
from evalkit.weights.group4 import is_group4
from evalkit.weights.heap import trim_heap
from evalkit.weights.initial import with_residual
from evalkit.weights.memory import release_memory
from evalkit.weights.tokenizers import load_tokenizer
from evalkit.weights.verbs import Build


def build_variant(
    path: paths.Path, context: BuildContext, *, job: str, on_progress: OnProgress
) -> BuiltVariant:
    """Walks a path from freshly loaded base weights to the model at its end.

    Nothing is shared with other variants but files that are never written again: base, adapters,
    the cached checkpoint of the quantised base, the weights at the end of a beginning that they
    share. They are mapped, so all loads read them once.

    Args:
        path: normalised and legal.
        context: sources, adapters and the machine.
        job: the job's name, for progress.
        on_progress: called before each step.

    Returns:
        The model in eval mode. Its facts: `effective_dtype`, `source_precision`, `parameters`,
        `weight_bytes`, `load_seconds`, `step_seconds`, `notes`, and `repacking` where weights were
        quantised.

    Raises:
        WeightsError: something on the way cannot be read, does not fit, or must not be done.
        MachineError: it does not fit into memory.
    """
    started = time.perf_counter()
    base = context.base
    context = with_residual(path, context, job=job, on_progress=on_progress)
    if context.base is not base:  # another base, so what begins alike is not the same
        context = replace(context, shared={})
    folder = loading.prepare_base(context.base, context.cache, on_progress=on_progress, job=job)
    build = Build(context, folder)
    index, seconds, before = _start(build, path)
    started -= before
    while index < len(path):
        taken, perform = _next_steps(path, index)
        name = paths.describe(path[index : index + taken])
        on_progress(Progress(job, name, index, len(path), "steps"))
        begun = time.perf_counter()
        perform(build)
        build.saved = None
        release_memory()  # what steps leave behind is not to add up
        seconds[f"{index} {name}"] = round(time.perf_counter() - begun, 3)
        index += taken
        if path[:index] in context.shared:
            begun = time.perf_counter()
            on_progress(Progress(job, "keep for other variants", index, len(path), "steps"))
            _keep(build, context.shared[path[:index]], seconds, begun - started)
            started += time.perf_counter() - begun  # which is no part of building
    return _finish(build, seconds, started)


def _next_steps(path: paths.Path, index: int) -> tuple[int, Callable[[Build], None]]:
    """How many steps are taken at once, and what takes them."""
    step, following = path[index], next(iter(path[index + 1 :]), None)
    if isinstance(step, paths.Load):
        if isinstance(following, paths.Quantize):
            return 2, lambda build: verbs.load_quantized(step, following, build)
        return 1, lambda build: verbs.load(step, build)
    if isinstance(step, paths.Quantize):
        return 1, lambda build: verbs.quantize(step, build)
    if isinstance(step, paths.Dequantize):
        return 1, lambda build: verbs.dequantize(step, build)
    if isinstance(step, paths.Attach):
        return 1, lambda build: verbs.attach(step, build)
    return 1, verbs.merge


def _start(build: Build, path: paths.Path) -> tuple[int, dict[str, float], float]:
    """Goes on from what another variant of the run left, where there is such a thing.

    Returns:
        How many steps are taken, what each of them took, and the time from start to end.
    """
    found = longest_kept(path, build.context)
    if found is None:
        return 0, {}, 0.0
    taken, build.saved, beginning = found
    build.load_dtype = beginning.load_dtype
    build.kept = Path(beginning.kept) if beginning.kept else None
    build.notes = list(beginning.notes)
    quantised = [step for step in path[:taken] if isinstance(step, paths.Quantize)]
    build.quantised = quantised[-1] if quantised else None
    if not isinstance(next(iter(path[taken:]), None), paths.Quantize):
        build.model = verbs.load_folder(build, build.saved)
    return taken, dict(beginning.seconds), beginning.elapsed


def _keep(build: Build, folder: Path, seconds: dict[str, float], elapsed: float) -> None:
    """Writes the weights down for others, with what there is to know of them."""
    kept = None if build.kept is None else str(build.kept)
    notes = tuple(build.notes)
    beginning = Beginning(build.load_dtype, kept, notes, dict(seconds), round(elapsed, 3))
    if keep(verbs.loaded(build), folder, beginning):
        build.saved = folder


def _finish(build: Build, seconds: dict[str, float], started: float) -> BuiltVariant:
    model = verbs.loaded(build)
    trust = build.context.trust_remote_code
    tokenizer = load_tokenizer(build.folder, trust_remote_code=trust)
    trim_heap()  # of what reading a vocabulary takes
    repacked = quantization.repacked_layers(model)
    facts: dict[str, Any] = {
        "effective_dtype": build.load_dtype,
        "source_precision": build.context.base.precision,
        "parameters": quantization.count_parameters(model),
        "weight_bytes": quantization.stored_bytes(model),
        "load_seconds": round(time.perf_counter() - started, 3),
        "step_seconds": seconds,
        "notes": list(build.notes),
    }
    if any(not is_group4(layer) for layer in quantization.quantized_layers(model).values()):
        facts["repacking"] = f"{len(repacked)} layers" if repacked else "off"
    return BuiltVariant(
        model.eval(), tokenizer, facts, build.folder, build.kept, tuple(build.attached)
    )
