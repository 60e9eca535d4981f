"""Adapters whose first weights came from the base, and which base they therefore need.

LoftQ (Li et al. 2023, arXiv:2310.08659), one round of it: B·A starts as the best approximation of
rank r to what quantising lost, W − Q. The base stays Q = quantise(W).

PiSSA (Meng et al. 2024, arXiv:2404.02948): B·A starts as the best approximation of rank r to W
itself, and the base becomes the residual W − B·A, in 16 bits or quantised. So the residual is a
base of its own: made once, kept under its digest, and what a path starts from wherever it attaches
such an adapter. Rounds of LoftQ beyond the first would change the base too, and are not done.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit import paths
from evalkit.errors import WeightsError
from evalkit.records import OnProgress
from evalkit.weight_files import read_json
from evalkit.weights.residual import residual_base

if TYPE_CHECKING:
    from evalkit.weights.building import BuildContext

KEY = "evalkit_init"
"""What adapter_config.json says such an adapter needs: part of the adapter's digest."""


def with_residual(
    path: paths.Path, context: BuildContext, *, job: str, on_progress: OnProgress
) -> BuildContext:
    """The context with the base that a path starts from: a PiSSA adapter's residual, or as it was.

    The residual is made if it is not there, and must be the one that the adapter was trained on.

    Raises:
        WeightsError: it is another, or the path attaches several such adapters.
    """
    needs = []
    for step in path:
        if isinstance(step, paths.Attach) and step.adapter not in context.full:
            need = needed_base(context.adapters[step.adapter])
            if need.get("init") == "pissa":
                needs.append((step.adapter, need))
    if not needs:
        return context
    if len(needs) > 1:
        raise WeightsError(
            f"{' and '.join(name for name, _ in needs)} were initialised by PiSSA: each fills up "
            "the residual that the path starts from, and it can be filled up once"
        )
    name, need = needs[0]
    if need["base"] != context.base.digest:
        raise WeightsError(
            f"{name}: was initialised by PiSSA from other weights than {context.base.origin}, and "
            "cannot be put on these"
        )
    residual = residual_base(
        context, need["r"], tuple(need["modules"]), job=job, on_progress=on_progress
    )
    if residual.digest != need["residual"]:
        raise WeightsError(
            f"{name}: was trained on a PiSSA residual with the digest {need['residual'][:12]}, and "
            f"the one computed here has {residual.digest[:12]}: train the adapter again here"
        )
    return dataclasses.replace(context, base=residual)


def needed_base(adapter: Path) -> dict[str, Any]:
    """What an adapter's configuration says about the base that it needs; {} for most."""
    file = adapter / "adapter_config.json"
    need = read_json(file).get(KEY) if file.is_file() else None
    return need if isinstance(need, dict) else {}


def check_quantization(adapter: Path, quantised: paths.Quantize | None, name: str) -> None:
    """Refuses a LoftQ adapter on weights that were quantised in another way than its base.

    Args:
        adapter: its folder.
        quantised: the last `quantize` on the path, if any.
        name: the adapter's.

    Raises:
        WeightsError: says both.
    """
    need = needed_base(adapter)
    if need.get("init") != "loftq" or need["quantize"] == grid_of(quantised):
        return
    raise WeightsError(
        f"{name}: was initialised by LoftQ with what {need['words']} lost; these weights "
        f"{'are not quantised' if quantised is None else f'went through {words_of(quantised)}'}"
    )


def grid_of(step: paths.Quantize | None) -> dict[str, Any] | None:
    """What of a `quantize` step decides the values, as JSON."""
    if step is None:
        return None
    fields = dataclasses.asdict(step)
    del fields["compute_dtype"]
    return {**fields, "skip_modules": list(step.skip_modules)}


def words_of(step: paths.Quantize) -> str:
    """The step as an error names it."""
    return f"'{paths.describe([step])}'"
