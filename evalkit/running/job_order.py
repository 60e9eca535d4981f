"""What waits for what in a plan, and how much work that is. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evalkit.executors.queue import longest_paths
from evalkit.plan import Plan
from evalkit.plan_jobs import ScoreJob, TrainJob
from evalkit.records import Corpus, Document

_CHARACTERS = 4
"""Of a token of English, about."""
_BACKWARD = 3
"""A training step to a forward pass over the same tokens: the backward pass is two of them."""
_BUILDING = 2000
"""Tokens that could be scored while a variant is built, about: no job is free."""


@dataclass(frozen=True)
class Standing:
    """Where a job stands among the others."""

    turn: int
    """In the plan: training, the reference, scores as the suite has them."""
    path: float
    """Work from its start to the end of what waits for it last, in tokens of a forward pass."""


def job_order(
    plan: Plan, training: Sequence[TrainJob], scoring: Sequence[ScoreJob]
) -> dict[str, Standing]:
    """Where each job stands, by its name; the reference too, where the plan has one.

    Work is told from the suite alone. It decides what starts first, so it need only be right among
    jobs of one run; what lm-eval tasks take is the same for every variant, and left out.

    Args:
        plan: the run's.
        training: those of its trainings that are to be run.
        scoring: those of its variants that are to be scored.
    """
    reference = plan.reference
    trained = {job.adapter: job.name for job in training}
    costs = {job.name: _training_tokens(plan, job) for job in training}
    needs: dict[str, set[str]] = {}
    if reference is not None:
        costs[reference.name] = _BUILDING + _divergence_tokens(plan)
        needs[reference.name] = {trained[n] for n in reference.job.adapters if n in trained}
    for job in scoring:
        costs[job.name] = _scoring_tokens(plan, job)
        needs[job.name] = {trained[name] for name in job.adapters if name in trained}
        if reference is not None and plan.diverges(job):
            needs[job.name].add(reference.name)
    paths = longest_paths(costs, needs)
    return {name: Standing(turn, paths[name]) for turn, name in enumerate(costs)}


def _training_tokens(plan: Plan, job: TrainJob) -> float:
    recipe = job.spec.training
    if recipe is None or job.spec.data is None:
        return 0.0
    if recipe.steps is None:
        once = _corpus_tokens(plan.sources.corpora[job.spec.data])
        return _BACKWARD * once * (recipe.epochs or 1)
    rows = recipe.batch_size * recipe.gradient_accumulation
    return _BACKWARD * recipe.steps * rows * recipe.max_length


def _scoring_tokens(plan: Plan, job: ScoreJob) -> float:
    tokens: float = _BUILDING
    for spec in plan.suite.metrics.perplexity.values():
        whole = _corpus_tokens(plan.sources.corpora[spec.on])
        tokens += min(whole, spec.tokens or whole)
    samples = plan.suite.metrics.samples
    if samples is not None:
        tokens += len(samples.prompts) * samples.max_new_tokens
    return tokens + (_divergence_tokens(plan) if plan.diverges(job) else 0.0)


def _divergence_tokens(plan: Plan) -> float:
    spec = plan.suite.metrics.divergence
    if spec is None:
        return 0.0
    return min(_corpus_tokens(plan.sources.corpora[spec.on]), spec.tokens)


def _corpus_tokens(corpus: Corpus) -> float:
    return sum(map(_characters, corpus.documents)) / _CHARACTERS


def _characters(document: Document) -> int:
    spoken = sum(len(content) for _, content in document.messages or ())
    return len(document.text) + len(document.prompt or "") + spoken
