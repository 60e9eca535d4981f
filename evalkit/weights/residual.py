"""PiSSA's residual: the base less its largest singular parts, kept as a base of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from evalkit.digests import digest_folder, digest_json
from evalkit.errors import TrainingError
from evalkit.records import OnProgress, Progress
from evalkit.seals import is_unbroken
from evalkit.sources import WeightsSource
from evalkit.weights import loading
from evalkit.weights.adapters import target_names
from evalkit.weights.checkpoint import stored_dtype
from evalkit.weights.folders import written_aside

if TYPE_CHECKING:
    import torch

    from evalkit.suite import LoraSpec
    from evalkit.weights.building import BuildContext

_REVISION = 1
"""Part of a residual's name: raised when the same request yields other weights."""
_FACTORS = "factors/factors.safetensors"


def pissa_base(
    context: BuildContext, lora: LoraSpec, *, name: str, job: str, on_progress: OnProgress
) -> WeightsSource:
    """The residual that an adapter with `init: pissa` is trained on.

    Raises:
        TrainingError: target_modules match nothing.
    """
    folder = loading.prepare_base(context.base, context.cache, on_progress=on_progress, job=job)
    modules = target_names(folder, lora.target_modules, trust_remote_code=context.trust_remote_code)
    if not modules:
        raise TrainingError(f"{name}: target_modules match no layer")
    return residual_base(context, lora.r, modules, job=job, on_progress=on_progress)


def residual_base(
    context: BuildContext,
    rank: int,
    modules: tuple[str, ...],
    *,
    job: str,
    on_progress: OnProgress,
) -> WeightsSource:
    """The base less the best rank-`rank` approximation of each module, as weights of their own.

    Computed in float32, rounded once to the base's dtype, and kept in the cache; with the factors
    beside it.

    Returns:
        A source whose digest is that of its content.
    """
    folder = loading.prepare_base(context.base, context.cache, on_progress=on_progress, job=job)
    request = {"base": context.base.digest, "rank": rank, "modules": sorted(modules)}
    identity = digest_json({**request, "revision": _REVISION})[:32]
    out = context.cache / "residuals" / identity
    out.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(out.with_name(f"{identity}.lock")):
        if not is_unbroken(out, context.cache):
            on_progress(Progress(job, "split off singular parts (once)", 0, len(modules)))
            with written_aside(out, sealed=True) as aside:
                _write_residual(folder, aside, rank, modules, context)
    return WeightsSource(
        kind="folder",
        folder=out,
        filename=None,
        origin=f"{context.base.origin} less its first {rank} singular parts",
        digest=digest_folder(out, sorted(out.glob("*.safetensors")), context.cache),
        precision=f"{context.base.precision}, PiSSA residual",
    )


def read_factors(residual: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The factors A and B of every module that were split off a residual."""
    from safetensors.torch import load_file

    tensors = load_file(residual / _FACTORS)
    names = sorted({name.removesuffix(".A").removesuffix(".B") for name in tensors})
    return {name: (tensors[f"{name}.A"], tensors[f"{name}.B"]) for name in names}


def _write_residual(
    folder: Path, out: Path, rank: int, modules: tuple[str, ...], context: BuildContext
) -> None:
    import torch
    from safetensors.torch import save_file

    device = "cpu" if context.device == "cpu" else 0
    model = loading.load_model(
        folder,
        dtype=torch.float32,
        device_map=context.device_map or {"": device},
        trust_remote_code=context.trust_remote_code,
    )
    factors: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        for name in modules:
            layer: Any = model.get_submodule(name)
            first, second = top_factors(matrix_of(layer), rank)
            layer.weight -= _oriented(layer, second @ first)
            factors |= {f"{name}.A": first.cpu(), f"{name}.B": second.cpu()}
    for file in _files_beside(folder):
        shutil.copyfile(file, out / file.name)
    with loading.quiet_libraries():
        model.to(loading.torch_dtype(stored_dtype(folder))).save_pretrained(out)
    (out / _FACTORS).parent.mkdir()
    save_file(factors, out / _FACTORS)


def top_factors(weight: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The best approximation B·A of rank `rank`: A [rank, in] and B [out, rank], equally large."""
    import torch

    left, values, right = torch.linalg.svd(weight.float(), full_matrices=False)
    root = values[:rank].sqrt()
    first, second = root[:, None] * right[:rank], left[:, :rank] * root
    lacking = rank - len(root)
    if lacking > 0:  # a rank beyond the matrix's own: the rest is zero
        first = torch.cat([first, first.new_zeros(lacking, first.shape[1])])
        second = torch.cat([second, second.new_zeros(second.shape[0], lacking)], dim=1)
    return first.contiguous(), second.contiguous()


def matrix_of(layer: Any) -> torch.Tensor:
    """A plain layer's weight, Linear or Conv1D, as [out, in] in float32."""
    weight: torch.Tensor = layer.weight.detach().float()
    return _oriented(layer, weight)


def _oriented(layer: Any, weight: torch.Tensor) -> torch.Tensor:
    from transformers.pytorch_utils import Conv1D

    return weight.T if isinstance(layer, Conv1D) else weight


def _files_beside(folder: Path) -> Iterator[Path]:
    """What a model's folder holds besides its weights: configuration, tokenizer, code."""
    for file in folder.iterdir():
        if file.is_file() and ".safetensors" not in file.name:
            yield file
