"""A run as JSON for other programs. Versioned: fields are added, never renamed or removed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from evalkit.records import JobRecord, JsonObject, RunRecord, Score, VariantRecord, Verdict
from evalkit.report.facts import job_status
from evalkit.report.sentence import verdict_sentence

SCHEMA = 1
_COUNTS = ("n_tokens", "n_bytes", "n_words", "n_documents")


def run_json(run: RunRecord) -> JsonObject:
    """A run as an object that `json.dumps(..., allow_nan=False)` takes.

    Effects and budgets are fractions of the reference (0.06 = +6 %) where `budget_unit` is
    "relative", fractions of one for "points", and in the metric's unit for "absolute". A number
    that is not finite becomes null.
    """
    return {
        "schema": SCHEMA,
        "run": run.id,
        "suite": run.suite,
        "started": run.started,
        "seconds": run.seconds,
        "exit_code": run.exit_code,
        "sentence": verdict_sentence(run),
        "variants": {variant.name: _variant(variant) for variant in run.variants},
        "adapters": {job.name.removeprefix("train "): _job(job) for job in run.adapters},
        "verdicts": [_verdict(verdict) for verdict in run.verdicts],
        "arguments": _plain(run.arguments),
        "provenance": _plain(run.provenance),
    }


def _variant(variant: VariantRecord) -> JsonObject:
    job = variant.job
    return {
        "path": [_plain(step) for step in variant.path],
        "parent": variant.parent,
        "edge": variant.edge,
        "status": job_status(variant),
        "reused_from": job.reused_from if job else None,
        "error": job.error if job else None,
        "seconds": job.seconds if job else None,
        "metrics": {metric: _score(score) for metric, score in variant.scores.items()},
        # Measured by no scorer yet: null says so, a missing key would not.
        "survival": None,
        "facts": _plain(job.facts) if job else {},
    }


def _score(score: Score) -> JsonObject:
    extra = {
        key: int(value) if key in _COUNTS else _plain(value) for key, value in score.extra.items()
    }
    return {
        "value": float(score.value),
        "stderr": _plain(score.stderr),
        "unit": score.unit,
        "higher_is_better": score.higher_is_better,
        "n_units": len(score.unit_ids),
        "n_clusters": len(set(score.clusters)),
        **extra,
        "comparison": dict(score.comparison),
    }


def _job(job: JobRecord) -> JsonObject:
    return {
        "status": job.status,
        "reused_from": job.reused_from,
        "error": job.error,
        "seconds": job.seconds,
        "facts": _plain(job.facts),
    }


def _verdict(verdict: Verdict) -> JsonObject:
    gate = verdict.gate
    budget = gate.max_increase or gate.max_decrease
    return {
        "metric": gate.metric,
        "variant": gate.variant,
        "against": gate.against,
        "verdict": verdict.verdict,
        "expect": gate.expect,
        "ok": verdict.ok,
        "warned": verdict.warned,
        "effect": _plain(verdict.effect),
        "low": _plain(verdict.low),
        "high": _plain(verdict.high),
        "budget": budget.amount if budget else None,
        "budget_unit": budget.unit if budget else None,
        "direction": _direction(verdict),
        "min": gate.minimum,
        "max": gate.maximum,
        "bootstrap_low": _plain(verdict.bootstrap_low),
        "bootstrap_high": _plain(verdict.bootstrap_high),
        "p_value": _plain(verdict.p_value),
        "p_adjusted": _plain(verdict.p_adjusted),
        "n_units": verdict.n_units,
        "n_clusters": verdict.n_clusters,
        "effective_clusters": _plain(verdict.effective_clusters),
        "message": verdict.message,
        "place": gate.place,
    }


def _direction(verdict: Verdict) -> str | None:
    if verdict.gate.max_increase is not None:
        return "increase"
    return "decrease" if verdict.gate.max_decrease is not None else None


def _plain(value: object) -> Any:
    """The same value in JSON's own types."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int):
        return value
    # A lone surrogate is legal in a Python string and in no UTF-8 file.
    return str(value).encode("utf-8", "replace").decode("utf-8")
