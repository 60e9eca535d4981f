"""Refuses what this machine cannot hold, before anything is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evalkit import paths
from evalkit.errors import MachineError
from evalkit.machine import readable_bytes
from evalkit.suite import LoraSpec
from evalkit.weight_files import read_json
from evalkit.weights.loading import converted_folder
from evalkit.weights.memory import estimate_bytes, estimate_training_bytes, sizes_of

if TYPE_CHECKING:
    from pathlib import Path

    from evalkit.machine import Machine
    from evalkit.suite import AdapterSpec, Suite
    from evalkit.weights.building import BuildContext


def check_variant_fits(
    path: paths.Path, context: BuildContext, memory: int, *, beside: paths.Path | None = None
) -> None:
    """Compares a variant's estimated peak with the device's `memory` (bytes).

    Args:
        path: the variant's.
        context: what it is built with.
        memory: of the device.
        beside: the path of another variant that is in memory at the same time.

    Raises:
        MachineError: says what is needed and what is there.
    """
    check_gpus(context)
    needs = [variant_bytes(each, context) for each in (path, beside) if each is not None]
    known = [needed for needed in needs if needed is not None]
    if known:
        what = " beside ".join(paths.describe(each) for each in (path, beside) if each is not None)
        _compare(f"{what} of {context.base.origin}", sum(known), context, memory)


def check_gpus(context: BuildContext) -> None:
    """Compares the GPUs that a model is to be spread over with those that there are.

    Raises:
        MachineError: another number of them would be used than the suite says.
    """
    if context.gpus is None:
        return
    import torch

    seen = torch.cuda.device_count() if context.device == "cuda" else 0
    if seen != context.gpus:
        raise MachineError(
            f"model.gpus is {context.gpus}, and this process sees {seen}: name as many in "
            "CUDA_VISIBLE_DEVICES, or run on a cluster with --executor ray, which gives a job so "
            "many"
        )


def variant_bytes(path: paths.Path, context: BuildContext) -> int | None:
    """A variant's estimated peak on one device, in bytes.

    Returns:
        None where it cannot be told: over several devices, or from a GGUF file that is not
        converted yet.
    """
    folder = _configuration(context)
    if folder is None or context.device_map is not None:
        return None
    return estimate_bytes(
        folder,
        path,
        effective_dtypes=context.effective_dtypes,
        ranks=_ranks(path, context),
        trust_remote_code=context.trust_remote_code,
    )


def check_any_fits(suite: Suite, folder: Path, machine: Machine) -> None:
    """Stops where not one variant of a suite fits, before its weights are fetched.

    Args:
        suite: with a model whose weights are not here yet.
        folder: with that model's config.json.
        machine: this one.

    Raises:
        MachineError: says what the smallest variant needs, what is there, and what to run instead.
    """
    if suite.model.device_map is not None or not _is_transformers_own(folder):
        return
    needs = {
        variant.name: estimate_bytes(
            folder, variant.path, effective_dtypes=machine.effective_dtypes(), ranks=suite.ranks
        )
        for variant in suite.variants
        if variant.path[0] != paths.Load("auto")
    }
    if not needs or min(needs.values()) <= machine.memory:
        return
    smallest = min(needs, key=lambda name: needs[name])
    instead = suite.requires.instead if suite.requires else None
    raise MachineError(
        f"{suite.place}: {suite.model.source} does not fit: its smallest variant, {smallest}, "
        f"needs about {readable_bytes(needs[smallest])} of {machine.device} memory, and there is "
        f"{readable_bytes(machine.memory)}{f'. Run {instead} instead' if instead else ''}"
    )


def check_training_fits(spec: AdapterSpec, context: BuildContext, memory: int) -> None:
    """Compares the estimated peak of a training with the device's `memory` (bytes).

    Raises:
        MachineError: says what is needed and what is there.
    """
    check_gpus(context)
    needed = training_bytes(spec, context)
    if needed is not None:
        _compare(f"training on {context.base.origin}", needed, context, memory)


def training_bytes(spec: AdapterSpec, context: BuildContext) -> int | None:
    """A training's estimated peak on one device, in bytes; None as for `variant_bytes`."""
    folder = _configuration(context)
    if folder is None or context.device_map is not None:
        return None
    if spec.on_path is None or spec.training is None:
        return None
    return estimate_training_bytes(
        folder,
        spec.on_path,
        spec.lora or LoraSpec(),
        spec.training,
        effective_dtypes=context.effective_dtypes,
        trust_remote_code=context.trust_remote_code,
    )


def vocabulary(context: BuildContext) -> int | None:
    """How many logits the base gives for a token; None for a GGUF file not converted yet."""
    folder = _configuration(context)
    if folder is None:
        return None
    return sizes_of(folder, trust_remote_code=context.trust_remote_code).vocabulary


def is_measurable(context: BuildContext) -> bool:
    """Whether memory can be estimated: the configuration is there, and one device holds it all."""
    return _configuration(context) is not None and context.device_map is None


def _ranks(path: paths.Path, context: BuildContext) -> dict[str, int]:
    """Of the path's adapters, as far as they are known: by the suite, or by what lies there."""
    ranks = dict(context.ranks)
    for step in path:
        if not isinstance(step, paths.Attach):
            continue
        if step.adapter in context.full:
            ranks[step.adapter] = 0  # its weights take the place of the base's
        elif step.adapter in context.adapters and step.adapter not in ranks:
            file = context.adapters[step.adapter] / "adapter_config.json"
            rank = read_json(file).get("r") if file.is_file() else None
            if isinstance(rank, int):
                ranks[step.adapter] = rank
    return ranks


def _is_transformers_own(folder: Path) -> bool:
    """Whether the configuration is of an architecture that needs no code from the hub."""
    return "auto_map" not in read_json(folder / "config.json")


def _configuration(context: BuildContext) -> Path | None:
    """The folder with the base's config.json; None for a GGUF file that is not converted yet."""
    if context.base.kind == "folder":
        return context.base.folder
    folder = converted_folder(context.base, context.cache)
    return folder if folder.is_dir() else None


def _compare(what: str, needed: int, context: BuildContext, memory: int) -> None:
    if needed > memory:
        raise MachineError(
            f"{what} needs about {readable_bytes(needed)} of {context.device} memory, and there is "
            f"{readable_bytes(memory)}. Name a smaller model, quantise it, or spread it "
            "over several devices (model.device_map: auto)"
        )
