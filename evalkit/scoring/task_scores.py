"""From what lm-eval kept of every sample to scores: sums, counts, answers, ties. No lm-eval here.

Where several choices share the best likelihood exactly, a model has not chosen. lm-eval takes the
first of them, which may be the right one by its place in the list; here it is counted as a tie and
is never a hit. `extra` of such a score has `n_ties`, and `lm_eval` is what lm-eval reads.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from evalkit.errors import DataError, ScoringError
from evalkit.records import Float64s, MetricKind, SampleText, Score
from evalkit.scoring.task_answers import Answers, Sample, TaskRun, answers
from evalkit.scoring.task_texts import sample_texts
from evalkit.statistics.clusters import ratio_standard_error

ID_LENGTH = 16
"""Characters of lm-eval's `doc_hash` that name a sample."""
_ROLLING: dict[str, tuple[MetricKind, str, float]] = {
    "word_perplexity": ("perplexity", "ppl/word", 1.0),
    "byte_perplexity": ("perplexity", "ppl/byte", 1.0),
    "bits_per_byte": ("mean", "bits/byte", 1 / math.log(2)),
}
"""Kind, unit, and nats to what is summed, of metrics that are a ratio of (nats, words or bytes)."""


_NO_ANSWERS = Answers(())


@dataclass(frozen=True)
class _Measured:
    """One metric: its units, and what is summed over them."""

    ids: tuple[str, ...]
    clusters: tuple[str, ...]
    kind: MetricKind
    unit: str
    higher_is_better: bool
    sums: Float64s
    counts: Float64s
    answers: Answers = _NO_ANSWERS
    texts: tuple[SampleText, ...] = ()


def scores_of(
    run: TaskRun, *, prefix: str, cluster: str | None
) -> tuple[dict[str, Score], list[str]]:
    """Scores of one task.

    Args:
        run: what lm-eval kept.
        prefix: of the metrics' names: `prefix/acc`, and `prefix/acc@FILTER` for filters but the
            first.
        cluster: the column that says which samples belong together.

    Returns:
        The scores by metric, and what was left out and why.

    Raises:
        DataError: the samples lack the column.
        ScoringError: a log-likelihood or a value that is not finite.
    """
    scores: dict[str, Score] = {}
    notes: list[str] = []
    comparison = {**run.comparison, "prompts": _prompts_digest(run)}
    filters = list(dict.fromkeys(str(sample["filter"]) for sample in run.samples))
    for filter_ in filters:
        mine = [sample for sample in run.samples if sample["filter"] == filter_]
        for metric in dict.fromkeys(name for sample in mine for name in sample["metrics"]):
            name = f"{prefix}/{metric}" + ("" if filter_ == filters[0] else f"@{filter_}")
            reading = run.readings.get(f"{metric},{filter_}")
            having = [sample for sample in mine if metric in sample]
            measured = _measure(run, having, metric, name, reading, cluster)
            if isinstance(measured, str):
                notes.append(f"{name} is left out: {measured}, so nothing of it can be paired")
            else:
                scores[name] = _score(name, measured, reading, comparison)
    return scores, notes


def pooled_scores(
    parts: Mapping[str, Mapping[str, Score]],
    *,
    prefix: str,
    readings: Mapping[str, Any],
    comparison: Mapping[str, str],
) -> dict[str, Score]:
    """Scores of a group: all samples of its tasks together, so that each task weighs by its size.

    Args:
        parts: scores of each task by metric, the metrics named 'GROUP/TASK/acc'.
        prefix: the group's, for 'GROUP/acc'. Only metrics that every task has are pooled.
        readings: what lm-eval says of the group.
        comparison: of the group.
    """
    by_task = {
        task: {name.removeprefix(f"{prefix}/{task}/"): score for name, score in scores.items()}
        for task, scores in parts.items()
    }
    first = next(iter(by_task.values()), {})
    pooled = {}
    for metric in first:
        own = {task: scores[metric] for task, scores in by_task.items() if metric in scores}
        alike = {(score.kind, score.unit, score.higher_is_better) for score in own.values()}
        if len(own) == len(by_task) and len(alike) == 1:
            name, _, filter_ = metric.partition("@")
            reading = readings.get(f"{name},{filter_ or 'none'}")
            pooled[f"{prefix}/{metric}"] = _pooled(f"{prefix}/{metric}", own, reading, comparison)
    return pooled


def _pooled(
    name: str, own: Mapping[str, Score], reading: object, comparison: Mapping[str, str]
) -> Score:
    parts = list(own.values())
    ties = [part.extra["n_ties"] for part in parts if "n_ties" in part.extra]
    outcomes = tuple(outcome for part in parts for outcome in part.outcomes)
    texts = tuple(text for part in parts for text in part.sample_texts)
    ids = tuple(f"{task}:{unit}" for task, score in own.items() for unit in score.unit_ids)
    measured = _Measured(
        ids=ids,
        clusters=tuple(f"{task}:{one}" for task, score in own.items() for one in score.clusters),
        kind=parts[0].kind,
        unit=parts[0].unit,
        higher_is_better=parts[0].higher_is_better,
        sums=np.concatenate([part.sums for part in parts]),
        counts=np.concatenate([part.counts for part in parts]),
        answers=Answers(
            outcomes if len(outcomes) == len(ids) else (), int(sum(ties)) if ties else None
        ),
        texts=texts if len(texts) == len(ids) else (),
    )
    shared = {**comparison, "prompts": _digest([dict(part.comparison) for part in parts])}
    return _score(name, measured, reading, shared)


# ----------------------------------------------------------------------------- one metric


def _measure(
    run: TaskRun,
    samples: Sequence[Sample],
    metric: str,
    name: str,
    reading: object,
    cluster: str | None,
) -> _Measured | str:
    """What is summed for a metric, or why it has no sums."""
    values = [sample[metric] for sample in samples]
    ids = _unit_ids(samples)
    blank = _Measured(
        ids=ids,
        clusters=_clusters(samples, ids, cluster, name),
        kind="mean",
        unit="accuracy" if is_hits(metric) else metric,
        higher_is_better=bool(run.higher_is_better.get(metric, True)),
        sums=np.zeros(len(ids)),
        counts=np.ones(len(ids)),
        texts=sample_texts(run, samples),
    )
    if metric in _ROLLING and all(_is_ratio(value) for value in values):
        kind, unit, scale = _ROLLING[metric]
        pairs = np.asarray(values, dtype=np.float64)
        _check_finite(name, ids, pairs[:, 0])
        return replace(blank, kind=kind, unit=unit, sums=-pairs[:, 0] * scale, counts=pairs[:, 1])
    if not all(_is_number(value) for value in values):
        return "it is no number for each sample"
    numbers = np.asarray(values, dtype=np.float64)
    _check_finite(name, ids, numbers)
    said = answers(run, samples, metric, numbers)
    if metric == "perplexity" and run.output_type == "loglikelihood" and not run.own_scoring:
        return replace(blank, kind="perplexity", unit="ppl/answer", sums=-numbers, answers=said)
    if not _is_mean(reading, numbers):
        return "lm-eval does not take the mean of it over samples"
    if said.ties:
        numbers = np.where([outcome.tied for outcome in said.outcomes], 0.0, numbers)
    return replace(blank, sums=numbers, answers=said)


def _score(name: str, measured: _Measured, reading: object, comparison: Mapping[str, str]) -> Score:
    value = float(measured.sums.sum() / measured.counts.sum())
    error = ratio_standard_error(measured.sums, measured.counts, measured.clusters)
    if measured.kind == "perplexity":
        try:
            value = math.exp(value)
        except OverflowError:
            raise ScoringError(f"{name}: the mean loss is {value:.1f} nats") from None
        error = None if error is None else value * error
    extra: dict[str, float] = {"n_samples": len(measured.ids)}
    if measured.answers.ties is not None:
        extra["n_ties"] = measured.answers.ties
    if isinstance(reading, int | float):
        extra["lm_eval"] = float(reading)
    return Score(
        metric=name,
        kind=measured.kind,
        value=value,
        stderr=error,
        unit=measured.unit,
        higher_is_better=measured.higher_is_better,
        unit_ids=measured.ids,
        clusters=measured.clusters,
        sums=measured.sums,
        counts=measured.counts,
        extra=extra,
        comparison=dict(comparison),
        outcomes=measured.answers.outcomes,
        sample_texts=measured.texts,
    )


def is_hits(metric: str) -> bool:
    """Whether a metric of lm-eval is a share of right answers, by its name."""
    return metric.startswith(("acc", "exact_match")) or metric.endswith(("_acc", "accuracy"))


# ----------------------------------------------------------------------------- samples


def _unit_ids(samples: Sequence[Sample]) -> tuple[str, ...]:
    """The start of lm-eval's digest of each document; equal documents are numbered."""
    seen: Counter[str] = Counter()
    ids = []
    for sample in samples:
        base = str(sample["doc_hash"])[:ID_LENGTH]
        seen[base] += 1
        ids.append(base if seen[base] == 1 else f"{base}-{seen[base]}")
    return tuple(ids)


def _clusters(
    samples: Sequence[Sample], ids: tuple[str, ...], column: str | None, name: str
) -> tuple[str, ...]:
    if column is None:
        return ids
    for sample in samples:
        if column not in sample["doc"]:
            known = ", ".join(map(str, sample["doc"]))
            raise DataError(f"{name}: the samples have no column '{column}' (allowed: {known})")
    return tuple(str(sample["doc"][column]) for sample in samples)


def _check_finite(name: str, ids: Sequence[str], values: Float64s) -> None:
    if not np.isfinite(values).all():
        at = int(np.flatnonzero(~np.isfinite(values))[0])
        raise ScoringError(f"{name}: sample {ids[at]} gives {values[at]}, not a finite number")


def _is_number(value: object) -> bool:
    return isinstance(value, bool | int | float | np.integer | np.floating | np.bool_)


def _is_ratio(value: object) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2 and all(map(_is_number, value))


def _is_mean(reading: object, values: Float64s) -> bool:
    if not isinstance(reading, int | float | np.number):
        return False
    return math.isclose(float(reading), float(values.mean()), rel_tol=1e-9, abs_tol=1e-12)


def _prompts_digest(run: TaskRun) -> str:
    """Of everything that was put to the model: few-shot examples, chat template, all."""
    first = run.samples[0]["filter"] if run.samples else ""
    asked = [sample["arguments"] for sample in run.samples if sample["filter"] == first]
    return _digest(asked)


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:ID_LENGTH]
