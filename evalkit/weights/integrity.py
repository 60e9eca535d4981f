"""Survival: how much of an adapter a merge left in the weights, with no forward pass.

*Wanted* is what peft says that the adapters add: B·A with its scaling, for DoRA W′ − W.
*Happened* is the weight at the path's end minus that of the same path with `attach` and `merge`
left out, both expanded to float32. Survival is ⟨happened, wanted⟩/‖wanted‖², the least-squares
slope of one on the other: 1 where the adapter is in the weights, whatever rounding noise lies on
top of it, and 0 where nothing of it is.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from evalkit import paths
from evalkit.errors import WeightsError
from evalkit.records import SURVIVAL, OnProgress, Progress, Score
from evalkit.records.integrity import ModuleSurvival, Survival
from evalkit.weights import layer_weights, quantization
from evalkit.weights.building import BuildContext, BuiltVariant
from evalkit.weights.reference import ReferenceLayer, StreamedReference

if TYPE_CHECKING:
    import torch

_PIECE, _PIECE_ON_CPU = 2**22, 2**18
"""Elements of a sum in float32: on a CPU no more than its caches hold, and enough that threads are
worth waking (a fifth of the time that 2**15 take). Of so many the sum is right to 1e-6."""


def measure_survival(
    path: paths.Path,
    built: BuiltVariant,
    context: BuildContext,
    *,
    job: str,
    on_progress: OnProgress,
) -> Survival | None:
    """Measures how much of the merged adapters is in a variant's weights.

    The reference is worked out layer by layer from the files, and never whole in memory.

    Args:
        path: the variant's, normalised.
        built: the variant; left as it is.
        context: what it was built with.
        job: the job's name, for progress.
        on_progress: told the modules done.

    Returns:
        The survival, or None where the path merges no LoRA adapter: one that is only attached is
        all there by definition.

    Raises:
        WeightsError: weights are rearranged in memory, or do not belong to the path.
    """
    if not paths.merged_adapters(path, context.full):
        return None
    quantization.refuse_repacked(built.model, "measure survival")
    started = time.perf_counter()
    reference = StreamedReference(path, context, built.folder, built.kept)
    parts = []
    for number, name in enumerate(reference.modules):
        on_progress(Progress(job, SURVIVAL, number, len(reference.modules)))
        parts.append(_measure(name, final_layer(built.model, name), reference))
    on_progress(Progress(job, SURVIVAL, len(parts), len(parts)))
    return Survival(tuple(parts), round(time.perf_counter() - started, 3))


def survival_score(survival: Survival) -> Score | None:
    """The total as a score that gates can judge: measured, not sampled, so it has no units.

    Returns:
        None where the adapters change nothing, so that nothing can survive.
    """
    total = survival.total
    if total is None:
        return None
    readings = {
        "mean": survival.mean,
        "relative_error": survival.pooled.relative_error,
        "relative_size": survival.pooled.relative_size,
        "changed_share": survival.pooled.changed_share,
        "n_modules": float(len(survival.modules)),
    }
    nothing = np.zeros(0)
    return Score(
        metric=SURVIVAL,
        kind="mean",
        value=total,
        stderr=None,
        unit="of the adapter",
        higher_is_better=True,
        unit_ids=(),
        clusters=(),
        sums=nothing,
        counts=nothing,
        extra={name: value for name, value in readings.items() if value is not None},
        modules=survival.modules,
    )


def final_layer(model: Any, name: str) -> Any:
    """A module by its name in the base, below what peft has put around it.

    Raises:
        WeightsError: the model has none of this name.
    """
    from peft import PeftModel

    base = model.get_base_model() if isinstance(model, PeftModel) else model
    try:
        layer = base.get_submodule(name)
    except AttributeError as error:
        raise WeightsError(f"the variant has no module {name}, which an adapter targets") from error
    return layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer


def _measure(name: str, layer: Any, reference: StreamedReference) -> ModuleSurvival:
    """One module's sums; nothing of it is kept in memory."""
    expected = reference.layer(name, _device(layer))
    final = layer_weights.expanded(layer)
    if final.shape != expected.weight.shape:
        raise WeightsError(
            f"{name}: the variant's weight is {tuple(final.shape)}, without the adapters it is "
            f"{tuple(expected.weight.shape)}"
        )
    count, changed = 0, 0
    codes = layer_weights.codes(layer)
    if codes is not None and expected.codes is not None:
        count, changed = layer_weights.count_changed(codes, expected.codes)
    inner, wanted, error, weight = _sums(final, expected)
    return ModuleSurvival(name, inner, wanted, error, weight, count, changed)


def _sums(final: torch.Tensor, expected: ReferenceLayer) -> tuple[float, float, float, float]:
    """⟨happened, wanted⟩, ‖wanted‖², ‖happened − wanted‖², ‖W‖².

    Differences and the products of a piece in float32, the pieces summed in float64.
    """
    import torch

    size = _PIECE_ON_CPU if final.device.type == "cpu" else _PIECE
    rows = max(1, size // max(1, final.shape[-1]))
    totals = torch.zeros(4, dtype=torch.float64, device=final.device)
    tensors = (final, expected.weight, expected.wanted)
    for piece in zip(*(torch.split(tensor, rows) for tensor in tensors), strict=True):
        end, start, wanted = (part.flatten() for part in piece)
        happened = end - start
        missed = happened - wanted
        totals += torch.stack([happened @ wanted, wanted @ wanted, missed @ missed, start @ start])
    inner, norm, error, weight = totals.tolist()
    return inner, norm, error, weight


def _device(layer: Any) -> torch.device:
    import torch

    weight = getattr(layer, "weight", None)
    if isinstance(weight, torch.Tensor):
        return weight.device
    found: torch.device = next(iter(layer.parameters())).device
    return found
