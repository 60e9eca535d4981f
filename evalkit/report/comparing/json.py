"""A comparison as JSON for other programs. Versioned: fields are added, never renamed."""

from __future__ import annotations

import math

from evalkit.records import JsonObject
from evalkit.report.comparing.changes import changes, settings_diff
from evalkit.report.comparing.comparison import RunComparison, Side
from evalkit.report.comparing.metrics import MetricChange, Moved
from evalkit.report.comparing.text import comparison_sentence

SCHEMA = 1


def comparison_json(comparison: RunComparison) -> JsonObject:
    """A comparison as an object that `json.dumps(..., allow_nan=False)` takes.

    Effects are fractions of the old value where `effect_unit` is "relative", fractions of one for
    "points", in the metric's unit for "absolute". `moved` gives nats per token for a perplexity.
    `costs` are bytes on the disk and in memory, which are no scores; what is timed is left out.
    """
    return {
        "schema": SCHEMA,
        "sentence": comparison_sentence(comparison),
        "old": _side(comparison.old),
        "new": _side(comparison.new),
        "metrics": [_metric(change) for change in comparison.metrics],
        "costs": [_cost(change) for change in comparison.costs],
        "only_old": list(comparison.only_old),
        "only_new": list(comparison.only_new),
        "changes": list(changes(comparison.old, comparison.new)),
        "settings_diff": list(settings_diff(comparison.old, comparison.new)),
    }


def _side(side: Side) -> JsonObject:
    return {"name": side.name, "run": side.run, "suite": side.suite, "variant": side.variant}


def _metric(change: MetricChange) -> JsonObject:
    return {
        "metric": change.metric,
        "old_variant": change.old_variant,
        "new_variant": change.new_variant,
        "old": change.old,
        "new": change.new,
        "unit": change.unit,
        "higher_is_better": change.higher_is_better,
        "direction": change.direction,
        "effect": _finite(change.effect),
        "effect_unit": change.effect_unit,
        "low": _finite(change.low),
        "high": _finite(change.high),
        "n_units": change.n_units,
        "n_clusters": change.n_clusters,
        "effective_clusters": change.effective_clusters,
        "gained": change.gained,
        "lost": change.lost,
        "differs": list(change.differs),
        "moved": [_moved(moved) for moved in change.moved],
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _cost(change: MetricChange) -> JsonObject:
    return {
        "metric": change.metric,
        "old_variant": change.old_variant,
        "new_variant": change.new_variant,
        "old": change.old,
        "new": change.new,
        "unit": change.unit,
        "effect": change.effect,
    }


def _moved(moved: Moved) -> JsonObject:
    return {
        "unit": moved.unit,
        "cluster": moved.cluster,
        "old": moved.old,
        "new": moved.new,
        "change": moved.change,
        "count": moved.count,
        "text": moved.text,
    }
