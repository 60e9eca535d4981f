"""The two tasks that a worker performs, as plain data, and what comes of them."""

from __future__ import annotations

import errno
import gc
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from evalkit.errors import EvalkitError, WeightsError
from evalkit.paths import Path as VariantPath
from evalkit.records import SURVIVAL, Corpus, OnProgress, Sample, Score
from evalkit.records.integrity import Finding
from evalkit.suite import AdapterSpec, PerplexitySpec, SamplesSpec, TaskSpec
from evalkit.task_sources import TaskSource
from evalkit.weights.steps import BuildContext, BuiltVariant


@dataclass(frozen=True)
class TrainTask:
    """Fine-tune one adapter into a folder."""

    name: str
    adapter: str
    spec: AdapterSpec
    corpus: Corpus
    context: BuildContext
    memory: int
    """Bytes of the device: what needs more is refused before it is loaded."""
    out: Path


@dataclass(frozen=True)
class PerplexityTask:
    """One perplexity of a variant."""

    spec: PerplexitySpec
    corpus: Corpus
    max_tokens_per_document: int | None
    longest_last: bool = False
    """Take the batches in the reverse order."""


@dataclass(frozen=True)
class LmEvalTask:
    """One lm-eval task or group, run on a variant."""

    spec: TaskSpec
    source: TaskSource


@dataclass(frozen=True)
class ScoreTask:
    """Build one variant and measure it."""

    name: str
    variant: str
    path: VariantPath
    context: BuildContext
    memory: int
    """Bytes of the device: what needs more is refused before it is loaded."""
    perplexities: Mapping[str, PerplexityTask]
    samples: SamplesSpec | None
    tasks: Mapping[str, LmEvalTask] = field(default_factory=dict)
    """By the name that begins their metrics."""
    survival: bool = False
    """Measure how much of the merged adapters is in the weights."""


Task = TrainTask | ScoreTask


@dataclass(frozen=True)
class Outcome:
    """What came of a task: its facts, and scores or an error."""

    task: Task
    seconds: float
    facts: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Score] = field(default_factory=dict)
    samples: tuple[Sample, ...] = ()
    error: str | None = None
    traceback: str = ""
    """For `--debug`."""
    exit_code: int = 0
    """Of the error: 3; 2 where the data is at fault; 4 where this machine lacks something."""


class Executor(Protocol):
    """Performs tasks; the order of the outcomes is the order in which they end."""

    def execute(self, tasks: Iterable[Task], on_progress: OnProgress) -> Iterator[Outcome]:
        """Yields one outcome for each task. A task that fails does not stop the others."""
        ...


def perform(task: Task, on_progress: OnProgress) -> Outcome:
    """Performs one task in this process; turns its failure into an outcome.

    KeyboardInterrupt passes through.
    """
    started = time.perf_counter()
    try:
        done = (
            _train(task, on_progress) if isinstance(task, TrainTask) else _score(task, on_progress)
        )
    except EvalkitError as error:
        message, code, trace = str(error), error.exit_code, traceback.format_exc()
    except Exception as error:
        message, code, trace = _explain(error), 3, traceback.format_exc()
    else:
        return Outcome(task, time.perf_counter() - started, *done)
    finally:
        gc.collect()
    return Outcome(
        task, time.perf_counter() - started, error=message, traceback=trace, exit_code=code
    )


_Done = tuple[Mapping[str, Any], Mapping[str, Score], tuple[Sample, ...]]


def _train(task: TrainTask, on_progress: OnProgress) -> _Done:
    from evalkit.weights.checks import check_flavour
    from evalkit.weights.fitting import check_training_fits
    from evalkit.weights.training import train_adapter

    check_training_fits(task.spec, task.context, task.memory)
    facts = train_adapter(
        task.adapter,
        task.spec,
        task.corpus,
        task.context,
        out=task.out,
        job=task.name,
        on_progress=on_progress,
    )
    if task.spec.lora is not None:
        _refuse(check_flavour(task.out, task.spec.lora))
    return facts, {}, ()


def _score(task: ScoreTask, on_progress: OnProgress) -> _Done:
    from evalkit.weights.checks import check_finite_weights
    from evalkit.weights.fitting import check_variant_fits
    from evalkit.weights.memory import PeakMemory
    from evalkit.weights.steps import build_variant

    check_variant_fits(task.path, task.context, task.memory)
    with PeakMemory() as memory:
        built = build_variant(task.path, task.context, job=task.name, on_progress=on_progress)
        _refuse(check_finite_weights(built.model))
        scores, samples = _measure(task, built, on_progress)
        task_scores, notes = _run_tasks(task, built, on_progress)
        survival = _survival(task, built, on_progress)
    peaks = {
        "peak_resident_bytes": memory.resident_bytes,
        "peak_device_bytes": memory.device_bytes,
    }
    facts = {**built.facts, **peaks}
    if notes:
        facts["notes"] = [*facts.get("notes", ()), *notes]
    return facts, {**scores, **task_scores, **survival}, samples


def _measure(
    task: ScoreTask, built: BuiltVariant, on_progress: OnProgress
) -> tuple[Mapping[str, Score], tuple[Sample, ...]]:
    from evalkit.scoring.perplexity import score_perplexity
    from evalkit.scoring.samples import generate_samples

    scores = {
        metric: score_perplexity(
            built.model,
            built.tokenizer,
            part.corpus,
            part.spec,
            metric=metric,
            max_tokens_per_document=part.max_tokens_per_document,
            job=task.name,
            on_progress=on_progress,
            longest_last=part.longest_last,
        )
        for metric, part in task.perplexities.items()
    }
    if task.samples is None:
        return scores, ()
    samples = generate_samples(
        built.model, built.tokenizer, task.samples, job=task.name, on_progress=on_progress
    )
    return scores, samples


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


def _refuse(finding: Finding) -> None:
    """Stops a job whose numbers would say nothing.

    Raises:
        WeightsError: the check failed, and is a severe one.
    """
    if finding.fails:
        raise WeightsError(finding.message)


def _explain(error: Exception) -> str:
    """One line for an error that is not ours: where it came from, and what it said."""
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        where = f" while writing {error.filename}" if error.filename else ""
        return (
            f"the disk is full{where}; what was scored before is stored. Free some space, run again"
        )
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
