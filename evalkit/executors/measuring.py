"""Measures one variant in this process: builds it once, and asks it for every number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from evalkit.executors.findings import adapter_findings, refuse, reload_findings
from evalkit.executors.tasks import Part, ScoreTask
from evalkit.records import DIVERGENCE, SURVIVAL, OnProgress, Sample, Score
from evalkit.records.integrity import Finding
from evalkit.scoring.divergence import DivergencePart
from evalkit.scoring.perplexity import measure_perplexity_part, score_perplexity
from evalkit.scoring.windows import WHOLE
from evalkit.weights.building import BuiltVariant
from evalkit.weights.memory import PeakMemory

_Measured = TypeVar("_Measured")
Done = tuple[Mapping[str, Any], Mapping[str, Score], tuple[Sample, ...], Part | None]
"""Facts, scores by metric, generated samples, and what is in the place of scores of a shard."""


def measure_variant(task: ScoreTask, on_progress: OnProgress) -> Done:
    """Builds a variant and measures all that the task asks for.

    Raises:
        EvalkitError: it cannot be built, checked or measured; nothing of it is kept.
    """
    from evalkit.weights.checks import check_finite_weights
    from evalkit.weights.fitting import check_variant_fits
    from evalkit.weights.steps import build_variant

    beside = task.divergence if task.divergence and task.divergence.folder is None else None
    check_variant_fits(task.path, task.context, task.memory, beside=beside.path if beside else None)
    with PeakMemory() as peak:
        built = build_variant(task.path, task.context, job=task.name, on_progress=on_progress)
        findings = [check_finite_weights(built.model), *adapter_findings(task)]
        refuse(*findings)
        whole, share = task.shard == WHOLE, partial(measure_perplexity_part, shard=task.shard)
        parts = {} if whole else _perplexities(task, built, on_progress, share)
        scores = _perplexities(task, built, on_progress, score_perplexity) if whole else {}
        samples = _samples(task, built, on_progress)
        task_scores, notes = _run_tasks(task, built, on_progress)
        scores |= task_scores | _survival(task, built, on_progress)
    # A second model, or memory-mapped files, are no part of what scoring a variant takes.
    diverged, their_part = _divergence(task, built, on_progress)
    scores |= diverged
    scores |= _footprint(task, built, scores, peak, on_progress)
    if task.reload_check:
        findings += reload_findings(task, built, on_progress)
        refuse(*findings)
    part = Part(built.folder, parts, their_part) if task.shard != WHOLE else None
    return _facts(built, peak, findings, notes), scores, samples, part


def _perplexities(
    task: ScoreTask, built: BuiltVariant, on_progress: OnProgress, measure: Callable[..., _Measured]
) -> dict[str, _Measured]:
    """What `measure` makes of each perplexity, by metric."""
    return {
        metric: measure(
            built.model,
            built.tokenizer,
            part.corpus,
            part.spec,
            metric=metric,
            max_tokens_per_document=part.max_tokens_per_document,
            job=task.name,
            on_progress=on_progress,
            longest_last=part.longest_last,
            cache=task.context.cache,
        )
        for metric, part in task.perplexities.items()
    }


def _samples(task: ScoreTask, built: BuiltVariant, on_progress: OnProgress) -> tuple[Sample, ...]:
    from evalkit.scoring.samples import generate_samples

    if task.samples is None:
        return ()
    return generate_samples(
        built.model, built.tokenizer, task.samples, job=task.name, on_progress=on_progress
    )


def _run_tasks(
    task: ScoreTask, built: BuiltVariant, on_progress: OnProgress
) -> tuple[dict[str, Score], list[str]]:
    """The scores of lm-eval tasks, and what a reader must know of them."""
    scores: dict[str, Score] = {}
    notes: list[str] = []
    if task.tasks:
        from evalkit.scoring.tasks import score_task

        for part in task.tasks.values():
            found, said = score_task(
                built.model,
                built.tokenizer,
                part.spec,
                part.source,
                trusted=task.context.trust_remote_code,
                job=task.name,
                on_progress=on_progress,
            )
            scores.update(found)
            notes += said
    return scores, notes


def _survival(task: ScoreTask, built: BuiltVariant, on_progress: OnProgress) -> dict[str, Score]:
    """How much of the merged adapters is in the weights; nothing where they change nothing."""
    if not task.survival:
        return {}
    from evalkit.weights.integrity import measure_survival, survival_score

    found = measure_survival(task.path, built, task.context, job=task.name, on_progress=on_progress)
    score = survival_score(found) if found is not None else None
    return {} if score is None else {SURVIVAL: score}


def _divergence(
    task: ScoreTask, built: BuiltVariant, on_progress: OnProgress
) -> tuple[dict[str, Score], DivergencePart | None]:
    """How far the variant's predictions are from the reference's, written down or beside it."""
    part = task.divergence
    if part is None:
        return {}, None
    from evalkit.scoring.divergence import (
        Subject,
        measure_divergence_part,
        score_divergence,
        score_lockstep,
    )
    from evalkit.weights.steps import build_variant

    subject = Subject(
        built.model,
        built.tokenizer,
        part.corpus,
        part.spec,
        part.max_tokens_per_document,
        task.name,
        on_progress,
        cache=task.context.cache,
    )
    other: Any = part.folder
    if other is None:
        other = build_variant(part.path, task.context, job=task.name, on_progress=on_progress).model
    if task.shard != WHOLE:
        return {}, measure_divergence_part(subject, other, task.shard)
    score = score_lockstep if part.folder is None else score_divergence
    return {DIVERGENCE: score(subject, other, metric=DIVERGENCE, reference=part.reference)[0]}, None


def _footprint(
    task: ScoreTask,
    built: BuiltVariant,
    scores: Mapping[str, Score],
    peak: PeakMemory,
    on_progress: OnProgress,
) -> Mapping[str, Score]:
    if not task.footprint:
        return {}
    from evalkit.scoring.footprint import footprint_scores, measure_footprint

    speeds = (score.extra.get("tokens_per_second") for score in scores.values())
    found = measure_footprint(
        task.path,
        built,
        task.context,
        job=task.name,
        on_progress=on_progress,
        scoring_tokens_per_second=next(filter(None, speeds), None),
        peak=peak,
    )
    return footprint_scores(found)


# ----------------------------------------------------------------------------- what is said


def _facts(
    built: BuiltVariant, peak: PeakMemory, findings: list[Finding], notes: list[str]
) -> dict[str, Any]:
    failed = [f"{f.check}: {f.message}" for f in findings if not f.ok]
    told = [*built.facts.get("notes", ()), *notes, *failed]
    checks = [{"check": f.check, "ok": f.ok, "message": f.message} for f in findings]
    return {**built.facts, **peaks(peak), "notes": told, "checks": checks}


def peaks(peak: PeakMemory) -> dict[str, int]:
    """The most memory that a task took, as a job records it."""
    return {
        "peak_resident_bytes": peak.resident_bytes,
        "peak_device_bytes": peak.device_bytes,
    }
