"""Performs one task in this process, and turns its failure into an outcome."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from evalkit.errors import EvalkitError
from evalkit.executors.findings import explain, refuse
from evalkit.executors.measuring import Done, measure_variant, peaks
from evalkit.executors.tasks import FOUND, Outcome, ReferenceTask, Task, TrainTask
from evalkit.records import OnProgress, Progress
from evalkit.seals import is_unbroken
from evalkit.weights.memory import PeakMemory, release_memory


def perform(task: Task, on_progress: OnProgress) -> Outcome:
    """Performs one task in this process; turns its failure into an outcome.

    KeyboardInterrupt passes through.
    """
    started = time.perf_counter()
    try:
        done = _perform(task, on_progress)
    except EvalkitError as error:
        message, code, trace = str(error), error.exit_code, traceback.format_exc()
    except Exception as error:
        message, code, trace = explain(error), 3, traceback.format_exc()
    else:
        return Outcome(task, time.perf_counter() - started, *done)
    finally:
        release_memory()
    return Outcome(
        task, time.perf_counter() - started, error=message, traceback=trace, exit_code=code
    )


def _perform(task: Task, on_progress: OnProgress) -> Done:
    if isinstance(task, TrainTask):
        return _train(task, on_progress)
    if isinstance(task, ReferenceTask):
        return _write_reference(task, on_progress)
    return measure_variant(task, on_progress)


def _train(task: TrainTask, on_progress: OnProgress) -> Done:
    """Trains under a lock: what several runs want at once is trained by one of them."""
    with _alone(task, on_progress):
        if not task.again and is_unbroken(task.out, task.context.cache):
            return {FOUND: True}, {}, (), None
        return _train_here(task, on_progress)


@contextmanager
def _alone(task: TrainTask, on_progress: OnProgress) -> Iterator[None]:
    task.out.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(task.out.with_name(f"{task.out.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        on_progress(Progress(task.name, "wait for another run, which trains it", 0, None))
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _train_here(task: TrainTask, on_progress: OnProgress) -> Done:
    from evalkit.weights.checks import check_flavour
    from evalkit.weights.fitting import check_training_fits
    from evalkit.weights.training import train_adapter

    check_training_fits(task.spec, task.context, task.memory)
    with PeakMemory() as peak:
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
        refuse(check_flavour(task.out, task.spec.lora))
    return {**facts, **peaks(peak)}, {}, (), None


def _write_reference(task: ReferenceTask, on_progress: OnProgress) -> Done:
    from evalkit.scoring.divergence import Subject, write_reference
    from evalkit.weights.checks import check_finite_weights
    from evalkit.weights.fitting import check_variant_fits
    from evalkit.weights.steps import build_variant

    check_variant_fits(task.path, task.context, task.memory)
    with PeakMemory() as peak:
        built = build_variant(task.path, task.context, job=task.name, on_progress=on_progress)
        refuse(check_finite_weights(built.model))
        subject = Subject(
            built.model,
            built.tokenizer,
            task.corpus,
            task.spec,
            task.max_tokens_per_document,
            task.name,
            on_progress,
            phase="log-probabilities",
            cache=task.context.cache,
        )
        written = write_reference(subject, task.out)
    return {**built.facts, **peaks(peak), "written_bytes": written}, {}, (), None
