"""Drives a plan's jobs through an executor, and stores each result as soon as it is there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from evalkit.executors.tasks import (
    FOUND,
    Executor,
    LmEvalTask,
    Outcome,
    PerplexityTask,
    ScoreTask,
    Task,
    TrainTask,
)
from evalkit.masking import masked
from evalkit.plan import FOOTPRINT, SAMPLES, Plan, task_key
from evalkit.plan_jobs import LeftOut, ScoreJob, TrainJob
from evalkit.records import (
    DIVERGENCE,
    SURVIVAL,
    JobKind,
    JobRecord,
    Score,
)
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
from evalkit.weights.steps import BuildContext


def build_context(plan: Plan, cache: Path, folders: Mapping[str, Path]) -> BuildContext:
    """What building a variant of this plan needs to know.

    Args:
        plan: the run's.
        cache: the cache folder.
        folders: of every adapter that is there, by name.
    """
    suite, environment = plan.suite, plan.environment
    return BuildContext(
        base=plan.sources.weights,
        adapters=dict(folders),
        full=frozenset(name for name, spec in suite.adapters.items() if spec.method == "full"),
        cache=cache,
        device=environment.machine.device,
        device_map=suite.model.device_map,
        effective_dtypes=environment.machine.effective_dtypes(),
        trust_remote_code=environment.trust_remote_code,
    )


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
        self._reference = ReferenceKeeper(plan, options.cache / "scratch" / f"reference-{run_id}")

    def train(self, training: Sequence[TrainJob]) -> None:
        """Trains what no earlier run has trained by the same recipe."""
        jobs = {job.name: job for job in training}
        tasks: list[Task] = []
        for job in jobs.values():
            known = find_trained_adapter(self._options.cache, job.recipe_key)
            if known is None or self._options.force:
                tasks.append(self._train_task(job))
            else:
                self._take_trained(job, known)
        for outcome in self._executor.execute(tasks, self._watcher.on_progress):
            self._training_ended(jobs[outcome.task.name], outcome)

    def score(self) -> None:
        """Scores every variant; takes stored numbers where their keys are equal."""
        jobs = {job.name: job for job in self._plan.scoring}
        found: dict[str, StoredNumbers] = {}
        for job in jobs.values():
            lost = next((name for name in job.adapters if name in self.untrained), None)
            if lost is not None:
                error = f"its adapter {lost} was not trained: {self.untrained[lost]}"
                self._record_failure(job, error)
                continue
            known = self._find(job)
            if known.missing:
                found[job.name] = known
            else:
                self._record_reused(job, known)
        if any(DIVERGENCE in known.missing for known in found.values()):
            self._write_reference()
        try:
            tasks = [self.score_task(jobs[name], known.missing) for name, known in found.items()]
            for outcome in self._executor.execute(tasks, self._watcher.on_progress):
                name = outcome.task.name
                self._record_outcome(jobs[name], found[name], outcome)
        finally:
            self._reference.delete()

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

    # ------------------------------------------------------------------------- training

    def _take_trained(self, job: TrainJob, known: AdapterSource) -> None:
        self.folders[job.yields] = known.folder
        self.digests[job.yields] = known.digest
        self._record_training(job, self._earlier_training(job))

    def _train_task(self, job: TrainJob) -> TrainTask:
        if job.spec.data is None:
            raise ValueError(f"{job.name} has no data")
        return TrainTask(
            name=job.name,
            adapter=job.adapter,
            spec=job.spec,
            corpus=self._plan.sources.corpora[job.spec.data],
            context=self._context(),
            memory=self._plan.environment.machine.memory,
            out=trained_adapter_folder(self._options.cache, job.recipe_key),
            again=self._options.force,
        )

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
        suite = self._plan.suite
        return ScoreTask(
            name=job.name,
            variant=job.variant.name,
            path=job.variant.path,
            context=self._context(),
            memory=self._plan.environment.machine.memory,
            perplexities={
                metric: PerplexityTask(
                    spec,
                    self._plan.sources.corpora[spec.on],
                    suite.data[spec.on].max_tokens_per_document,
                )
                for metric, spec in suite.metrics.perplexity.items()
                if metric in missing
            },
            samples=suite.metrics.samples if SAMPLES in missing else None,
            tasks={
                spec.name: LmEvalTask(spec, self._plan.sources.tasks[spec.name])
                for spec in suite.tasks
                if task_key(spec.name) in missing
            },
            divergence=self._reference.compared(self.digests) if DIVERGENCE in missing else None,
            survival=SURVIVAL in missing,
            footprint=FOOTPRINT in missing,
            reload_check=suite.metrics.reload_check,
        )

    def _write_reference(self) -> None:
        """Writes what divergence is measured from; variants go on without where that fails."""
        tasks = self._reference.tasks(self._context())
        for outcome in self._executor.execute(tasks, self._watcher.on_progress):
            record = self.job_record(outcome, "reference")
            self._reference.error = outcome.error
            self._store.record_job(self._run_id, record)
            self._watcher.job_ended(record, {})

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
        return build_context(self._plan, self._options.cache, self.folders)

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
