"""What follows from a run's records by arithmetic: changes, best and worst, storage."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Literal

import numpy as np

from evalkit.records import DIVERGENCE, JsonObject, RunRecord, Score, VariantRecord, Verdict
from evalkit.report.words import ACCURACY

Standing = Literal["passes", "known loss", "not settled", "fails", "not judged", "failed"]
_BITS = {"nf4": 4, "fp4": 4, "group4": 4, "int8": 8, "torchao-int8": 8, "fp32": 32}


# ------------------------------------------------------------------------- variants


def variant_named(run: RunRecord, name: str | None) -> VariantRecord | None:
    """The run's variant of this name."""
    return next((variant for variant in run.variants if variant.name == name), None)


def score_of(run: RunRecord, name: str | None, metric: str) -> Score | None:
    """A variant's score, None where there is no such variant or it was not scored."""
    variant = variant_named(run, name)
    return None if variant is None else variant.scores.get(metric)


def metrics_of(run: RunRecord) -> list[str]:
    """Every metric that a variant was scored on, in the order of the records; divergence last.

    What was measured on the weights and sampled nowhere is none: survival, and costs.
    """
    found = dict.fromkeys(
        metric for v in run.variants for metric, score in v.scores.items() if score.unit_ids
    )
    return sorted(found, key=lambda metric: metric == DIVERGENCE)


def primary_metric(run: RunRecord) -> str | None:
    """The metric that the first gate judges, else the first that was scored."""
    scored = metrics_of(run)
    gated = [verdict.gate.metric for verdict in run.verdicts if verdict.gate.metric in scored]
    return next(iter([*gated, *scored]), None)


def primary_perplexity(run: RunRecord) -> str | None:
    """The primary metric where it is a perplexity, else the first perplexity there is."""
    kinds = {metric: score.kind for v in run.variants for metric, score in v.scores.items()}
    primary = primary_metric(run)
    candidates = [*([primary] if primary else []), *metrics_of(run)]
    return next((metric for metric in candidates if kinds[metric] == "perplexity"), None)


def reference_of(run: RunRecord, metric: str) -> VariantRecord | None:
    """What the table's differences are against: the plain base weights, else the first scored.

    For divergence it is the suite's reference, which has no score: it would be 0.
    """
    if metric == DIVERGENCE:
        return variant_named(run, divergence_reference(run))
    scored = [variant for variant in run.variants if metric in variant.scores]
    plain = [variant for variant in scored if set(verbs(variant.path)) == {"load"}]
    return next(iter([*plain, *scored]), None)


def divergence_reference(run: RunRecord) -> str | None:
    """The name of the variant that divergence is measured from, as the suite says."""
    metrics = run.suite_json.get("metrics")
    spec = metrics.get(DIVERGENCE) if isinstance(metrics, Mapping) else None
    name = spec.get("reference") if isinstance(spec, Mapping) else None
    return name if isinstance(name, str) else None


def job_status(variant: VariantRecord) -> str:
    """'scored', 'failed', 'cancelled', or 'missing' where its job never ended."""
    if variant.job is None:
        return "scored" if variant.scores else "missing"
    return "scored" if variant.job.status in {"done", "reused"} else variant.job.status


def standing(run: RunRecord, name: str) -> Standing:
    """What a variant's own gates come to together; the worst one counts."""
    variant = variant_named(run, name)
    verdicts = [verdict for verdict in run.verdicts if verdict.gate.variant == name]
    if variant is None or job_status(variant) != "scored":
        return "failed"
    if any(not verdict.ok for verdict in verdicts):
        return "fails"
    if any(verdict.verdict == "REGRESSED" for verdict in verdicts):
        return "known loss"
    if any(verdict.warned or verdict.verdict == "INCONCLUSIVE" for verdict in verdicts):
        return "not settled"
    return "passes" if verdicts else "not judged"


# ---------------------------------------------------------------------------- paths


def verbs(path: Sequence[JsonObject]) -> list[str]:
    """The verbs of a path: ['load', 'quantize', 'attach']."""
    return [next(iter(step)) for step in path]


def step_words(step: JsonObject) -> str:
    """'quantise nf4', 'attach guanaco', 'merge'."""
    verb, argument = next(iter(step.items()))
    if verb == "merge":
        return "merge"
    spelled = {"quantize": "quantise", "dequantize": "dequantise"}.get(verb, verb)
    if isinstance(argument, Mapping):
        options = [f"{key} {value}" for key, value in argument.items() if key != "type"]
        argument = " ".join(part for part in (str(argument.get("type", "")), *options) if part)
    return f"{spelled} {argument}".strip()


def path_words(path: Sequence[JsonObject]) -> str:
    """A whole path in words: 'load fp16, quantise nf4, attach guanaco'."""
    return ", ".join(step_words(step) for step in path)


def quantization_type(step: JsonObject) -> str | None:
    """'nf4' of a quantize step, None of any other."""
    argument = step.get("quantize")
    return str(argument.get("type")) if isinstance(argument, Mapping) else argument


def storage_bits(path: Sequence[JsonObject]) -> int:
    """Bits a weight at a path's end, as the steps say: 4, 8, 16 or 32."""
    bits = 16
    for step in path:
        if "load" in step or "dequantize" in step:
            bits = _BITS.get(str(step.get("load") or step.get("dequantize")), 16)
        elif "quantize" in step:
            bits = _BITS.get(str(quantization_type(step)), 16)
    return bits


def carries_adapter(path: Sequence[JsonObject]) -> bool:
    """Whether an adapter was put on top, merged or not."""
    return "attach" in verbs(path)


def needs_adapter(path: Sequence[JsonObject]) -> bool:
    """Whether an adapter stays beside the weights: attached and not merged."""
    names = verbs(path)
    return "attach" in names and "merge" not in names[names.index("attach") :]


def twin_without_adapter(run: RunRecord, variant: VariantRecord) -> VariantRecord | None:
    """The scored variant of the same path with `attach` and `merge` left out.

    `quantize X, dequantize, quantize X` counts as `quantize X`: the values lie on the grid already.
    """
    bare = [step for step in variant.path if not {"attach", "merge"} & set(step)]
    names = verbs(bare)
    if names[-3:] == ["quantize", "dequantize", "quantize"] and bare[-1] == bare[-3]:
        bare = bare[:-2]
    others = (other for other in run.variants if list(other.path) == bare)
    return next((other for other in others if other.name != variant.name), None)


# --------------------------------------------------------------------------- changes


def comparable(one: Score, other: Score) -> bool:
    """Whether two scores were measured on the same documents in the same way."""
    return dict(one.comparison) == dict(other.comparison) and one.unit_ids == other.unit_ids


def change(score: Score, reference: Score) -> float | None:
    """The difference to a reference: a fraction for perplexity, a plain difference for a mean.

    None where the two may not be compared.
    """
    if not comparable(score, reference):
        return None
    if score.kind == "perplexity":
        return score.value / reference.value - 1
    return score.value - reference.value


def interval(score: Score, *, clusters: int | None = None) -> tuple[float, float] | None:
    """The 95 % interval of a value by itself, from its clustered standard error.

    Student t with one degree of freedom less than clusters; on the log scale for perplexity, where
    the standard error was computed. None where the score has no standard error.

    Args:
        score: a score.
        clusters: how many clusters it has, where that was counted before.
    """
    if clusters is None:
        clusters = len(set(score.clusters))
    if score.stderr is None or clusters < 2:
        return None
    margin = _t_quantile(clusters - 1) * score.stderr
    if score.kind != "perplexity":
        low, high = score.value - margin, score.value + margin
        # No share of right answers is below nothing or above all.
        return (max(low, 0.0), min(high, 1.0)) if score.unit == ACCURACY else (low, high)
    factor = math.exp(min(margin / score.value, 700.0))
    return score.value / factor, score.value * factor


@lru_cache(maxsize=1024)
def _t_quantile(degrees: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.975))


def best_and_worst(run: RunRecord, metric: str) -> tuple[set[str], set[str]]:
    """The names with the best and the worst value of a metric, ties included.

    Both are empty with fewer than two comparable values.
    """
    scores = {v.name: v.scores[metric] for v in run.variants if metric in v.scores}
    values = {name: score.value for name, score in scores.items()}
    first = next(iter(scores.values()), None)
    if first is None or any(not comparable(first, score) for score in scores.values()):
        return set(), set()
    low, high = min(values.values()), max(values.values())
    if low == high:
        return set(), set()
    lowest = {name for name, value in values.items() if value == low}
    highest = {name for name, value in values.items() if value == high}
    return (highest, lowest) if first.higher_is_better else (lowest, highest)


def effective_dtype(variant: VariantRecord) -> str | None:
    """The dtype that a variant was really computed in, where its job recorded it."""
    value = variant.job.facts.get("effective_dtype") if variant.job else None
    return str(value) if value else None


def scored_tokens(score: Score) -> int:
    """How many tokens (or items) a score is made of."""
    return int(np.sum(score.counts))


def is_task(score: Score) -> bool:
    """Whether a score is of an lm-eval task."""
    return "prompts" in score.comparison


def shown_metrics(run: RunRecord) -> list[str]:
    """The metrics worth a table of their own: those of a group's single tasks only where gated."""
    gated = {gate.metric for gate in run.gates} | {v.gate.metric for v in run.verdicts}
    return [m for m in metrics_of(run) if m.count("/") < 2 or m in gated]


def unit_noun(score: Score | None) -> str:
    """What a score is paired by: 'document', 'window' of a stream, or 'sample' of a task."""
    if score is None:
        return "document"
    if is_task(score):
        return "sample"
    protocol = score.comparison.get("protocol", "documents")
    return "document" if protocol.startswith("documents") else "window"


def worst_first(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Verdicts that need a reader's eye first: not ok, warned, known losses, then the rest."""
    return sorted(
        verdicts,
        key=lambda v: (v.ok, not v.warned, v.verdict != "REGRESSED"),
    )
