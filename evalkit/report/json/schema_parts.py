"""Smaller parts of the JSON of a run: what `run_schema` puts together."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """Part of the JSON, described by the docstrings of its fields."""

    model_config = ConfigDict(use_attribute_docstrings=True, protected_namespaces=())


class SurvivalJson(Part):
    """How much of the merged adapters is in a variant's weights: 1 is all of it, 0 nothing."""

    total: float
    """Inner products summed over modules, over squared norms summed."""
    mean: float | None
    """The mean of the modules' survivals."""
    relative_error: float | None
    """‖happened − wanted‖/‖wanted‖: rounding noise counts in full."""
    relative_size: float | None
    """‖wanted‖/‖W‖: how large the adapter is beside the weights."""
    changed_share: float | None
    """Share of the quantised codes that changed; null where an end of the path has none."""
    by_layer: dict[str, float | None]
    """By the layer's number; what is in no layer by its name. null: nothing was to change."""
    by_kind: dict[str, float | None]
    """By the last part of the module's name: `q_proj`, `down_proj`."""


class CheckJson(Part):
    """What one check of a variant found."""

    check: str
    """`finite`, `zero adapter`, `reload`, `merge`."""
    ok: bool
    message: str


class SampleJson(Part):
    """What a variant wrote after one prompt, greedily."""

    prompt: str
    text: str
    first_difference: int | None
    """The index of the first token that is not the reference's: the plain base weights', else the
    first variant's. null: the same text, or the reference itself."""
