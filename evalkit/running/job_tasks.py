"""From a plan's jobs to the tasks that a worker performs. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from evalkit.executors.tasks import (
    DivergenceTask,
    LmEvalTask,
    PerplexityTask,
    ScoreTask,
    TrainTask,
)
from evalkit.plan import FOOTPRINT, SAMPLES, Plan, task_key
from evalkit.plan_jobs import ScoreJob, TrainJob
from evalkit.records import SURVIVAL
from evalkit.sources import trained_adapter_folder
from evalkit.weights.building import BuildContext


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
        ranks=suite.ranks,
        gpus=suite.model.gpus,
    )


def train_task(plan: Plan, job: TrainJob, context: BuildContext, *, again: bool) -> TrainTask:
    """The task that trains an adapter.

    Args:
        plan: the run's.
        job: one of its trainings.
        context: of `build_context`.
        again: train also what is trained.
    """
    if job.spec.data is None:
        raise ValueError(f"{job.name} has no data")
    return TrainTask(
        name=job.name,
        adapter=job.adapter,
        spec=job.spec,
        corpus=plan.sources.corpora[job.spec.data],
        context=context,
        memory=plan.environment.machine.memory,
        out=trained_adapter_folder(context.cache, job.recipe_key),
        again=again,
    )


def score_task(
    plan: Plan,
    job: ScoreJob,
    missing: Sequence[str],
    context: BuildContext,
    compared: DivergenceTask | None,
) -> ScoreTask:
    """The task that measures what is missing of a variant.

    Args:
        plan: the run's.
        job: one of its variants'.
        missing: the names of what to measure, as `Plan.reuse_keys` has them.
        context: of `build_context`, with the folder of every adapter on the path.
        compared: what the variant is compared with, where divergence is missing.
    """
    suite = plan.suite
    return ScoreTask(
        name=job.name,
        variant=job.variant.name,
        path=job.variant.path,
        context=context,
        memory=plan.environment.machine.memory,
        perplexities={
            metric: PerplexityTask(
                spec,
                plan.sources.corpora[spec.on],
                suite.data[spec.on].max_tokens_per_document,
            )
            for metric, spec in suite.metrics.perplexity.items()
            if metric in missing
        },
        samples=suite.metrics.samples if SAMPLES in missing else None,
        tasks={
            spec.name: LmEvalTask(spec, plan.sources.tasks[spec.name])
            for spec in suite.tasks
            if task_key(spec.name) in missing
        },
        divergence=compared,
        survival=SURVIVAL in missing,
        footprint=FOOTPRINT in missing,
        reload_check=suite.metrics.reload_check,
    )
