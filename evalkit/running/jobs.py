"""Drives a plan's jobs through an executor, and stores each result as soon as it is there."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from evalkit.digests import digest_json
from evalkit.executors.queue import Queue
from evalkit.executors.tasks import (
    FOUND,
    Executor,
    Outcome,
    ReferenceTask,
    ScoreTask,
    Task,
    TrainTask,
)
from evalkit.masking import masked
from evalkit.paths import Path as VariantPath
from evalkit.paths import path_json, shared_beginnings
from evalkit.plan import Plan
from evalkit.plan_jobs import LeftOut, ScoreJob, TrainJob
from evalkit.records import (
    DIVERGENCE,
    JobKind,
    JobRecord,
    Score,
)
from evalkit.running.job_order import Standing, job_order
from evalkit.running.job_tasks import build_context, score_task, train_task
from evalkit.running.options import RunOptions, Watcher
from evalkit.running.reference_jobs import ReferenceKeeper
from evalkit.running.repeats import family_key, seed_of
from evalkit.running.reuse import StoredNumbers, find_stored, planned_variants
from evalkit.sources import (
    AdapterSource,
    adapter_digest,
    find_trained_adapter,
    trained_adapter_folder,
)
from evalkit.store import FAMILY, SEED, Store, VariantResult
from evalkit.weights.building import BuildContext


class JobDriver:
    """One run's jobs: what is known, what must be computed, what came of it."""

    def __init__(
        self,
        run_id: str,
        plan: Plan,
        options: RunOptions,
        *,
        store: Store,
        executor: Executor,
        watcher: Watcher,
    ) -> None:
        self.codes: list[int] = []
        """Exit codes of the jobs that failed."""
        self.folders = {name: source.folder for name, source in plan.sources.adapters.items()}
        """Of every adapter that is there, by `TrainJob.yields` or its name."""
        self.digests = plan.adapter_digests({})
        """Of the same."""
        self.untrained: dict[str, str] = {}
        """Why an adapter is not there."""
        self._run_id = run_id
        self._plan = plan
        self._options = options
        self._store = store
        self._executor = executor
        self._watcher = watcher
        self._planned = {variant.name: variant for variant in planned_variants(plan)}
        self._order: Mapping[str, Standing] = {}
        self._trainings: dict[str, TrainJob] = {}
        self._scorings: dict[str, ScoreJob] = {}
        self._queue: Queue[Task] = Queue()
        self._training: set[str] = set()
        """Adapters that are being trained, by name."""
        self._found: dict[str, StoredNumbers] = {}
        """What is stored of the jobs that compute the rest."""
        self._compared: list[ScoreJob] = []
        """Those that wait for the reference."""
        self._referencing: bool | None = None
        """Whether the reference is being written; None where nobody has asked for it."""
        self._reference = ReferenceKeeper(plan, options.cache / "scratch" / f"reference-{run_id}")
        self._beginnings = options.cache / "scratch" / f"beginnings-{run_id}"
        self._shared: Mapping[VariantPath, Path] = {}
        """Where in it the weights are that variants of this run go on from."""

    def run(self, training: Sequence[TrainJob], scoring: Sequence[ScoreJob] = ()) -> None:
        """Trains and scores; takes what earlier runs trained, and numbers whose keys are equal.

        A job is given to the executor as soon as what it needs is there.
        """
        self._order = job_order(self._plan, training, scoring)
        self._trainings = {job.name: job for job in training}
        self._scorings = {job.name: job for job in scoring}
        for job in training:
            known = find_trained_adapter(self._options.cache, job.recipe_key)
            if known is None or self._options.force:
                self._training.add(job.adapter)
                self._add(train_task(self._plan, job, self._context(), again=self._options.force))
            else:
                self._take_trained(job, known)
        waiting = list(scoring)
        try:
            waiting = self._set_free(waiting)
            for outcome in self._executor.execute(self._queue, self._watcher.on_progress):
                self._ended(outcome)
                waiting = self._set_free(waiting)
        finally:
            self._reference.delete()
            self._shared = {}
            shutil.rmtree(self._beginnings, ignore_errors=True)

    def take_left_out(self, left_out: LeftOut) -> None:
        """Records what the store knows of the variants that this run leaves out; computes nothing.

        A variant of which nothing is known stays without a job: it was not scored.
        """
        for training in left_out.training:
            known = find_trained_adapter(self._options.cache, training.recipe_key)
            if known is not None:
                self._take_trained(training, known)
        for job in left_out.scoring:
            if all(name in self.digests for name in job.adapters):
                # Fewer tokens to show are better than a number that is not shown.
                found = find_stored(self._store, self._plan.reuse_keys(job, self.digests))
                if found.scores:
                    self._record_reused(job, found)

    # ------------------------------------------------------------------------- what waits

    def _set_free(self, waiting: Sequence[ScoreJob]) -> list[ScoreJob]:
        """Queues what waits for no training any more; returns the rest."""
        rest = [job for job in waiting if self._training & set(self._needed(job))]
        missing = [job for job in waiting if job not in rest and self._look_up(job)]
        computed = [*rest, *(job for name, job in self._scorings.items() if name in self._found)]
        starts = shared_beginnings([job.variant.path for job in computed])
        self._shared = {
            start: self._beginnings / digest_json(path_json(start))[:16] for start in starts
        }
        for job in missing:
            self._queue_score(job)
        return rest

    def _needed(self, job: ScoreJob) -> tuple[str, ...]:
        """The adapters without which it is not known what is stored of a job."""
        reference = self._plan.reference if self._plan.diverges(job) else None
        return (*job.adapters, *(reference.job.adapters if reference is not None else ()))

    def _look_up(self, job: ScoreJob) -> bool:
        """Records a job of which nothing is to be computed; whether there is something."""
        lost = next((name for name in job.adapters if name in self.untrained), None)
        if lost is not None:
            error = f"its adapter {lost} was not trained: {self.untrained[lost]}"
            self._record_failure(job, error)
            return False
        known = self._find(job)
        if not known.missing:
            self._record_reused(job, known)
            return False
        self._found[job.name] = known
        return True

    def _queue_score(self, job: ScoreJob) -> None:
        missing = self._found[job.name].missing
        if DIVERGENCE in missing and not self._reference_is_there():
            self._compared.append(job)
        else:
            self._add(self.score_task(job, missing))

    def _reference_is_there(self) -> bool:
        """Whether divergence can be measured; the first to ask sees to it that it will."""
        if self._referencing is None:
            tasks = self._reference.tasks(self._context())
            self._referencing = bool(tasks)
            for task in tasks:
                self._add(task)
        return not self._referencing

    def _add(self, task: Task) -> None:
        standing = self._order[task.name]
        self._queue.add(task, turn=standing.turn, path=standing.path)

    def _ended(self, outcome: Outcome) -> None:
        name = outcome.task.name
        if isinstance(outcome.task, TrainTask):
            self._training_ended(self._trainings[name], outcome)
        elif isinstance(outcome.task, ReferenceTask):
            self._reference_ended(outcome)
        else:
            self._record_outcome(self._scorings[name], self._found[name], outcome)

    # ------------------------------------------------------------------------- training

    def _take_trained(self, job: TrainJob, known: AdapterSource) -> None:
        self.folders[job.yields] = known.folder
        self.digests[job.yields] = known.digest
        self._record_training(job, self._earlier_training(job))

    def _earlier_training(self, job: TrainJob) -> JobRecord:
        """The record of the training that made a cached adapter, where this store has it."""
        earlier = self._store.find_training(job.recipe_key)
        if earlier is None:
            return JobRecord(job.name, "train", "reused", 0.0)
        return replace(
            earlier.job, name=job.name, status="reused", seconds=0.0, reused_from=earlier.run
        )

    def _training_ended(self, job: TrainJob, outcome: Outcome) -> None:
        if outcome.error is None:
            folder = trained_adapter_folder(self._options.cache, job.recipe_key)
            self.folders[job.yields] = folder
            self.digests[job.yields] = adapter_digest(folder, self._options.cache)
        else:
            self.untrained[job.yields] = outcome.error
        self._training.discard(job.adapter)
        found = FOUND in outcome.facts
        record = self._earlier_training(job) if found else self.job_record(outcome, "train")
        self._record_training(job, record)

    def _record_training(self, job: TrainJob, record: JobRecord) -> None:
        digest = self.digests.get(job.yields)
        facts = {FAMILY: family_key(self._plan, job), SEED: seed_of(job)}
        record = replace(record, facts={**record.facts, **facts})
        self._store.record_training(
            self._run_id, record, reuse_key=job.recipe_key, content_digest=digest
        )
        self._watcher.job_ended(record, {})

    # ------------------------------------------------------------------------- scoring

    def _find(self, job: ScoreJob) -> StoredNumbers:
        keys = self._plan.reuse_keys(job, self.digests)
        if self._options.force:
            return StoredNumbers(keys)
        return find_stored(self._store, keys, self._plan.tokens_asked)

    def score_task(self, job: ScoreJob, missing: Sequence[str]) -> ScoreTask:
        """The task that measures what is missing of a variant."""
        compared = self._reference.compared(self.digests) if DIVERGENCE in missing else None
        return score_task(self._plan, job, missing, self._context(), compared)

    def _reference_ended(self, outcome: Outcome) -> None:
        """Variants go on without what divergence is measured from where writing it failed."""
        record = self.job_record(outcome, "reference")
        self._reference.error = outcome.error
        self._referencing = False
        self._store.record_job(self._run_id, record)
        self._watcher.job_ended(record, {})
        for job in self._compared:
            self._add(self.score_task(job, self._found[job.name].missing))
        self._compared.clear()

    def _record_failure(self, job: ScoreJob, error: str) -> None:
        record = JobRecord(job.name, "score", "failed", 0.0, error=error)
        self._record(StoredNumbers({}).result(self._planned[job.variant.name], record), {})

    def _record_reused(self, job: ScoreJob, found: StoredNumbers) -> None:
        facts = self._store.find_facts(found.run, [score.id for score in found.scores.values()])
        record = JobRecord(job.name, "score", "reused", 0.0, facts=facts, reused_from=found.run)
        self._record(found.result(self._planned[job.variant.name], record), {})

    def _record_outcome(self, job: ScoreJob, found: StoredNumbers, outcome: Outcome) -> None:
        record = self.job_record(outcome, "score")
        if found.scores:
            runs = {metric: score.run for metric, score in found.scores.items()}
            record = replace(record, facts={**record.facts, "reused": runs})
        result = found.result(self._planned[job.variant.name], record, outcome)
        self._record(result, outcome.scores)

    def _record(self, result: VariantResult, scores: Mapping[str, Score]) -> None:
        self._store.record_variant(self._run_id, result)
        self._watcher.job_ended(result.job, scores)

    def _context(self) -> BuildContext:
        context = build_context(self._plan, self._options.cache, self.folders)
        return replace(context, shared=self._shared)

    def job_record(self, outcome: Outcome, kind: JobKind) -> JobRecord:
        """What became of a task; keeps the exit code of one that failed."""
        facts = dict(outcome.facts)
        if outcome.error is not None:
            self.codes.append(outcome.exit_code)
            facts["traceback"] = masked(outcome.traceback)
        return JobRecord(
            name=outcome.task.name,
            kind=kind,
            status="done" if outcome.error is None else "failed",
            seconds=outcome.seconds,
            error=None if outcome.error is None else masked(outcome.error),
            facts=facts,
        )
