"""Drives a plan's repeats, after the run's own jobs, and stores each at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from evalkit.executors.queue import Queue
from evalkit.executors.tasks import Executor, Outcome, ScoreTask, Task
from evalkit.plan import Plan
from evalkit.plan_jobs import RepeatJob, ScoreJob
from evalkit.records import JobRecord, Score
from evalkit.running.floors import store_floors
from evalkit.running.job_tasks import build_context
from evalkit.running.jobs import JobDriver
from evalkit.running.options import RunOptions, Watcher
from evalkit.running.repeats import (
    draw_label,
    family_key,
    gated_variants,
    other_batches,
    other_requests,
    repeat_keys,
    seed_of,
    several_seeds,
)
from evalkit.running.reuse import StoredNumbers, find_stored
from evalkit.sources import find_trained_adapter
from evalkit.store import RepeatResult, Store, StoredDraw, StoredScore


class RepeatDriver:
    """One run's repeats: trained and scored where the store does not know them yet."""

    def __init__(
        self,
        run_id: str,
        plan: Plan,
        options: RunOptions,
        *,
        driver: JobDriver,
        store: Store,
        executor: Executor,
        watcher: Watcher,
    ) -> None:
        self._run_id = run_id
        self._plan = plan
        self._options = options
        self._driver = driver
        self._store = store
        self._executor = executor
        self._watcher = watcher

    def run(self) -> None:
        """Trains and scores every repeat of the plan, and takes up what earlier runs drew.

        The run's own jobs are done: a repeat of a variant that could not be scored is left out.
        """
        self._driver.run(self._plan.retraining)
        jobs = {repeat.name: repeat for repeat in self._possible()}
        found = {name: self._find(repeat) for name, repeat in jobs.items()}
        tasks: Queue[Task] = Queue()
        for name, known in found.items():
            if known.missing:
                tasks.add(self._task(jobs[name], known))
        for name, known in found.items():
            if not known.missing:
                self._record_reused(jobs[name], known.scores)
        for outcome in self._executor.execute(tasks, self._watcher.on_progress):
            name = outcome.task.name
            self._record_outcome(jobs[name], found[name].scores, outcome)
        if self._options.noise != "train" and not self._options.force:
            self._take_up_draws()
        store_floors(self._run_id, self._plan, self._store)

    def take_left_out(self) -> None:
        """Takes up what the store knows of the repeats of variants that the run leaves out."""
        if not self._plan.left_out.repeats:
            return
        scored = self._scored()
        for repeat in self._plan.left_out.repeats:
            keys = self._known_keys(repeat) if repeat.job.variant.name in scored else None
            found = find_stored(self._store, keys) if keys is not None else None
            if found is not None and found.scores and not found.missing:
                self._record_reused(repeat, found.scores)

    # ------------------------------------------------------------------------- the plan's own

    def _possible(self) -> Iterator[RepeatJob]:
        """The repeats of variants that are scored, whose adapters are trained."""
        if not self._plan.repeats:
            return
        scored = self._scored()
        untrained = self._driver.untrained
        for repeat in self._plan.repeats:
            lost = [job.yields for job in repeat.training.values() if job.yields in untrained]
            if lost:
                error = f"{lost[0]} was not trained: {untrained[lost[0]]}"
                self._record(repeat, JobRecord(repeat.name, "score", "failed", 0.0, error=error))
            elif repeat.job.variant.name in scored:
                yield repeat

    def _scored(self) -> set[str]:
        record = self._store.load_run(self._run_id)
        return {variant.name for variant in record.variants if variant.scores}

    def _known_keys(self, repeat: RepeatJob) -> dict[str, str] | None:
        """The keys of a repeat whose adapters were all trained before; else None."""
        cache = self._options.cache
        drawn = {n: find_trained_adapter(cache, j.recipe_key) for n, j in repeat.training.items()}
        found = {name: source.digest for name, source in drawn.items() if source is not None}
        digests = {**self._driver.digests, **found}
        lost = drawn.keys() - found.keys() or set(repeat.job.adapters) - digests.keys()
        return None if lost else repeat_keys(self._plan, repeat, digests)

    def _find(self, repeat: RepeatJob) -> StoredNumbers:
        keys = self._keys(repeat)
        return StoredNumbers(keys) if self._options.force else find_stored(self._store, keys)

    def _digests(self, repeat: RepeatJob) -> dict[str, str]:
        drawn = {name: self._driver.digests[j.yields] for name, j in repeat.training.items()}
        return {**self._driver.digests, **drawn}

    def _keys(self, repeat: RepeatJob) -> dict[str, str]:
        return repeat_keys(self._plan, repeat, self._digests(repeat))

    def _task(self, repeat: RepeatJob, known: StoredNumbers) -> ScoreTask:
        folders = self._driver.folders
        drawn = {name: folders[job.yields] for name, job in repeat.training.items()}
        task = replace(
            self._driver.score_task(repeat.job, known.missing),
            name=repeat.name,
            context=build_context(self._plan, self._options.cache, {**folders, **drawn}),
            reload_check=False,
        )
        return task if repeat.kind == "seed" else _in_other_batches(task)

    def _record_reused(self, repeat: RepeatJob, found: Mapping[str, StoredScore]) -> None:
        newest = max(score.run for score in found.values())
        record = JobRecord(repeat.name, "score", "reused", 0.0, reused_from=newest)
        self._record(repeat, record, reused=found)

    def _record_outcome(
        self, repeat: RepeatJob, found: Mapping[str, StoredScore], outcome: Outcome
    ) -> None:
        record = self._driver.job_record(outcome, "score")
        self._record(repeat, record, scores=outcome.scores, reused=found)

    def _record(
        self,
        repeat: RepeatJob,
        job: JobRecord,
        *,
        scores: Mapping[str, Score] | None = None,
        reused: Mapping[str, StoredScore] | None = None,
    ) -> None:
        scores = scores or {}
        known = StoredNumbers(self._keys(repeat) if scores else {})
        self._store.record_repeat(
            self._run_id,
            RepeatResult(
                variant=repeat.job.variant.name,
                kind=repeat.kind,
                label=repeat.label,
                job=job,
                scores={
                    metric: (known.keys[known.key_name(metric)], score)
                    for metric, score in scores.items()
                },
                reused={metric: score.id for metric, score in (reused or {}).items()},
            ),
        )
        self._watcher.job_ended(job, scores)

    # ------------------------------------------------------------------------- earlier draws

    def _take_up_draws(self) -> None:
        """Adds what earlier runs drew with other seeds of an adapter that has one seed here.

        Nothing is computed: draws that were not scored on this data are left out.
        """
        draws = {
            job.adapter: [
                draw
                for draw in self._store.find_draws(family_key(self._plan, job))
                if draw.seed != seed_of(job)
            ]
            for job in self._plan.training
            if job.adapter not in several_seeds(self._plan.suite)
        }
        gated = gated_variants(self._plan.suite)
        for job in self._plan.scoring:
            mine = [name for name in job.adapters if draws.get(name)]
            if mine and job.variant.name in gated:
                for drawn in zip(*(draws[name] for name in mine), strict=False):
                    self._take_up(job, dict(zip(mine, drawn, strict=True)))

    def _take_up(self, job: ScoreJob, drawn: Mapping[str, StoredDraw]) -> None:
        label = draw_label({name: draw.seed for name, draw in drawn.items()})
        repeat = RepeatJob(job, "seed", label)
        contents = {name: draw.content_digest for name, draw in drawn.items()}
        if any(name not in {**self._driver.digests, **contents} for name in job.adapters):
            return
        keys = repeat_keys(self._plan, repeat, {**self._driver.digests, **contents})
        found = find_stored(self._store, keys)
        if found.scores and not found.missing:
            self._record_reused(repeat, found.scores)


def _in_other_batches(task: ScoreTask) -> ScoreTask:
    """The same measures in batches of another size, taken in the reverse order."""
    perplexities = {
        metric: replace(part, spec=other_batches(part.spec), longest_last=True)
        for metric, part in task.perplexities.items()
    }
    tasks = {
        name: replace(part, spec=other_requests(part.spec)) for name, part in task.tasks.items()
    }
    return replace(task, perplexities=perplexities, tasks=tasks)
