"""A run as JSON for other programs. Versioned: fields are added, never renamed or removed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from evalkit.records import (
    COSTS,
    DIVERGENCE,
    SURVIVAL,
    JobRecord,
    JsonObject,
    Repeat,
    RunRecord,
    Score,
    VariantRecord,
    Verdict,
)
from evalkit.report.advice import advice
from evalkit.report.attribution import EdgeEffect, edge_effect
from evalkit.report.facts import job_status
from evalkit.report.json.details import checks_json, samples_json, survival_json
from evalkit.report.json.schema import (
    SCHEMA,
    AdapterJson,
    MetricJson,
    OutcomesJson,
    RepeatJson,
    RunJson,
    VariantJson,
    VerdictJson,
)
from evalkit.report.json.schema_steps import EdgeJson, IntervalJson, RecommendationJson
from evalkit.report.sentence import verdict_sentence
from evalkit.report.trade_off import trade_off

_COUNTS = ("n_tokens", "n_bytes", "n_words", "n_documents", "n_samples", "n_ties")


def run_json(run: RunRecord) -> JsonObject:
    """A run as an object that `json.dumps(..., allow_nan=False)` takes.

    Its fields are those of `evalkit.report.run_schema`. A number that is not finite becomes null.
    """
    found = trade_off(run)
    answer = RunJson(
        version=SCHEMA,
        run=_text(run.id),
        suite=_text(run.suite),
        place=_text(run.place),
        started=_text(run.started),
        seconds=_plain(run.seconds),
        exit_code=run.exit_code,
        sentence=verdict_sentence(run),
        variants={_text(variant.name): _variant(run, variant) for variant in run.variants},
        adapters={_text(job.name.removeprefix("train ")): _job(job) for job in run.adapters},
        recommendation=_recommendation(run),
        pareto_front=[_text(name) for name in (found.front if found else ())],
        verdicts=[_verdict(verdict) for verdict in run.verdicts],
        arguments=_plain(run.arguments),
        baseline=_plain(run.provenance.get("baseline")),
        provenance=_plain(run.provenance),
    )
    return answer.model_dump(mode="json", by_alias=True, exclude_unset=True)


def _recommendation(run: RunRecord) -> RecommendationJson:
    found = advice(run)
    return RecommendationJson(
        variant=_plain(found.variant),
        reasons=[_text(reason) for reason in found.reasons],
        command=_plain(found.command),
    )


def _variant(run: RunRecord, variant: VariantRecord) -> VariantJson:
    job = variant.job
    return VariantJson(
        path=[_plain(step) for step in variant.path],
        parent=_plain(variant.parent),
        edge=_text(variant.edge),
        edge_effects=_edges(run, variant),
        status=job_status(variant),
        reused_from=_plain(job.reused_from) if job else None,
        error=_plain(job.error) if job else None,
        seconds=_plain(job.seconds) if job else None,
        metrics={
            _text(metric): _metric(score)
            for metric, score in variant.scores.items()
            if metric not in COSTS
        },
        repeats=[_repeat(repeat) for repeat in variant.repeats],
        survival=_survival(variant),
        survival_detail=_plain(survival_json(variant)),
        checks=_plain(checks_json(run, variant)),
        samples=_plain(samples_json(run, variant)),
        cost=_cost(variant),
        facts=_plain(job.facts) if job else {},
    )


def _edges(run: RunRecord, variant: VariantRecord) -> dict[str, EdgeJson]:
    metrics = dict.fromkeys((*variant.scores, DIVERGENCE))
    found = {metric: edge_effect(run, variant, metric) for metric in metrics}
    return {_text(metric): _edge(edge) for metric, edge in found.items() if edge is not None}


def _edge(edge: EdgeEffect) -> EdgeJson:
    seen = edge.measured
    fields: dict[str, Any] = {
        "effect": _plain(seen.effect),
        "low": _plain(seen.low),
        "high": _plain(seen.high),
        "unit": seen.effect_unit,
    }
    for name, values in (("nats_per_token", edge.nats), ("bits_per_byte", edge.bits_per_byte)):
        if values is not None:
            fields[name] = IntervalJson(**dict(zip(("effect", "low", "high"), values, strict=True)))
    if seen.gained is not None:
        fields |= {"gained": seen.gained, "lost": seen.lost}
    return EdgeJson(**fields)


def _survival(variant: VariantRecord) -> float | None:
    score = variant.scores.get(SURVIVAL)
    return None if score is None else float(score.value)


def _cost(variant: VariantRecord) -> dict[str, float]:
    costs = {metric: score for metric, score in variant.scores.items() if metric in COSTS}
    counted = {name: value for score in costs.values() for name, value in score.extra.items()}
    return {metric: float(score.value) for metric, score in costs.items()} | counted


def _metric(score: Score) -> MetricJson:
    extra = {
        key: int(value) if key in _COUNTS else _plain(value) for key, value in score.extra.items()
    }
    if score.outcomes:
        extra["outcomes"] = OutcomesJson(
            samples=len(score.outcomes),
            correct=sum(outcome.correct is True for outcome in score.outcomes),
            tied=sum(outcome.tied for outcome in score.outcomes),
        )
    fields = {
        "value": float(score.value),
        "stderr": _plain(score.stderr),
        "unit": _text(score.unit),
        "higher_is_better": score.higher_is_better,
        "n_units": len(score.unit_ids),
        "n_clusters": len(set(score.clusters)),
        **extra,
        "comparison": _plain(score.comparison),
    }
    return MetricJson.model_validate(fields)


def _repeat(repeat: Repeat) -> RepeatJson:
    values = {_text(metric): float(score.value) for metric, score in repeat.scores.items()}
    return RepeatJson(kind=repeat.kind, label=_text(repeat.label), metrics=values)


def _job(job: JobRecord) -> AdapterJson:
    return AdapterJson(
        status=job.status,
        reused_from=_plain(job.reused_from),
        error=_plain(job.error),
        seconds=job.seconds,
        facts=_plain(job.facts),
    )


def _verdict(verdict: Verdict) -> VerdictJson:
    gate = verdict.gate
    budget = gate.max_increase or gate.max_decrease
    return VerdictJson(
        metric=_text(gate.metric),
        variant=_text(gate.variant),
        against=_plain(gate.against),
        verdict=verdict.verdict,
        expect=gate.expect,
        inconclusive=gate.inconclusive,
        ok=verdict.ok,
        warned=verdict.warned,
        effect=_plain(verdict.effect),
        low=_plain(verdict.low),
        high=_plain(verdict.high),
        budget=budget.amount if budget else None,
        budget_unit=budget.unit if budget else None,
        direction=_direction(verdict),
        min=gate.minimum,
        max=gate.maximum,
        bootstrap_low=_plain(verdict.bootstrap_low),
        bootstrap_high=_plain(verdict.bootstrap_high),
        p_value=_plain(verdict.p_value),
        p_adjusted=_plain(verdict.p_adjusted),
        n_units=verdict.n_units,
        n_clusters=verdict.n_clusters,
        effective_clusters=_plain(verdict.effective_clusters),
        gained=verdict.gained,
        lost=verdict.lost,
        mcnemar_p=_plain(verdict.mcnemar_p),
        noise_floor=_plain(verdict.noise_floor),
        training_spread=_plain(verdict.training_spread),
        n_seeds=verdict.n_seeds,
        message=_text(verdict.message),
        place=_text(gate.place),
    )


def _direction(verdict: Verdict) -> Literal["increase", "decrease"] | None:
    if verdict.gate.max_increase is not None:
        return "increase"
    return "decrease" if verdict.gate.max_decrease is not None else None


def _plain(value: object) -> Any:
    """The same value in JSON's own types."""
    if isinstance(value, Mapping):
        return {_text(str(key)): _plain(item) for key, item in value.items()}
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
    return _text(str(value))


def _text(text: str) -> str:
    """A lone surrogate is legal in a Python string and in no UTF-8 file."""
    return text.encode("utf-8", "replace").decode("utf-8")
