"""The walk along a path that builds a variant."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from evalkit import paths
from evalkit.records import OnProgress, Progress
from evalkit.weights import loading, quantization, verbs
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
    the cached checkpoint of the quantised base. They are mapped, so all loads read them once.

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
    context = with_residual(path, context, job=job, on_progress=on_progress)
    folder = loading.prepare_base(context.base, context.cache, on_progress=on_progress, job=job)
    build = Build(context, folder)
    seconds: dict[str, float] = {}
    index = 0
    while index < len(path):
        taken, perform = _next_steps(path, index)
        name = paths.describe(path[index : index + taken])
        on_progress(Progress(job, name, index, len(path), "steps"))
        begun = time.perf_counter()
        perform(build)
        release_memory()  # what steps leave behind is not to add up
        seconds[f"{index} {name}"] = round(time.perf_counter() - begun, 3)
        index += taken
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
