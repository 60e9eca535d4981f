"""One variant on several workers: each builds it and measures a share of the batches.

Perplexities and divergence are shared out by whole batches, so that joined they are what one worker
would have measured, bit for bit. Everything else a variant is asked for is done by the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from evalkit.executors.tasks import Outcome, Part, ScoreTask
from evalkit.records import DIVERGENCE, Score
from evalkit.scoring.divergence import join_divergence_parts
from evalkit.scoring.perplexity import join_perplexity_parts
from evalkit.scoring.windows import Shard


def split(task: ScoreTask, count: int) -> list[ScoreTask]:
    """The task as `count` tasks; one where nothing of it is measured in batches.

    Args:
        task: a whole one.
        count: of shards; one that finds no batch for itself gives an empty part.
    """
    if count == 1 or not (task.perplexities or task.divergence):
        return [task]
    rest = replace(
        task, samples=None, tasks={}, survival=False, footprint=False, reload_check=False
    )
    first = replace(task, shard=Shard(0, count))
    return [first, *(replace(rest, shard=Shard(index, count)) for index in range(1, count))]


def join(task: ScoreTask, outcomes: Sequence[Outcome]) -> Outcome:
    """The outcome of a whole task from those of its shards, in their order.

    Its seconds are the slowest shard's. Where shards failed, the first one's error is the task's.

    Raises:
        ScoringError, DataError: the parts do not make up a whole.
        WeightsError: the tokenizer cannot be loaded.
    """
    seconds = max(outcome.seconds for outcome in outcomes)
    failed = next((outcome for outcome in outcomes if outcome.error is not None), None)
    if failed is not None:
        return replace(failed, task=task, seconds=seconds)
    first = outcomes[0]
    parts = [outcome.part for outcome in outcomes if outcome.part is not None]
    return replace(
        first,
        task=task,
        seconds=seconds,
        part=None,
        facts={**first.facts, "shard_seconds": [round(each.seconds, 3) for each in outcomes]},
        scores={**_joined(task, parts), **first.scores},
    )


def _joined(task: ScoreTask, parts: Sequence[Part]) -> dict[str, Score]:
    from evalkit.weights.tokenizers import load_tokenizer

    trust = task.context.trust_remote_code
    tokenizer = load_tokenizer(parts[0].tokenizer, trust_remote_code=trust)
    scores = {
        metric: join_perplexity_parts(
            [part.perplexities[metric] for part in parts],
            tokenizer,
            asked.corpus,
            asked.spec,
            metric=metric,
            max_tokens_per_document=asked.max_tokens_per_document,
            cache=task.context.cache,
        )
        for metric, asked in task.perplexities.items()
    }
    compared = task.divergence
    if compared is not None:
        scores[DIVERGENCE] = join_divergence_parts(
            [part.divergence for part in parts if part.divergence is not None],
            tokenizer,
            compared.corpus,
            compared.spec,
            max_tokens_per_document=compared.max_tokens_per_document,
            cache=task.context.cache,
            metric=DIVERGENCE,
            reference=compared.reference,
        )
    return scores
