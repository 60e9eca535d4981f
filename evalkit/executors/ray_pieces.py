"""Tasks in the pieces that go to workers, and the pieces' outcomes put together again."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field

from evalkit import paths
from evalkit.errors import EvalkitError
from evalkit.executors import sharding
from evalkit.executors.tasks import Outcome, ScoreTask, Task, TrainTask


@dataclass
class Whole:
    """A task as the driver gave it, and what came of its shards."""

    task: Task
    shards: int
    outcomes: dict[int, Outcome] = field(default_factory=dict)


@dataclass
class Piece:
    """A shard of a task, or all of it; and how often it lost its worker."""

    whole: Whole
    index: int
    task: Task
    need: dict[str, float]
    path: float
    lost: int = 0


def pieces_of(task: Task, shards: int, need: dict[str, float], path: float) -> Iterator[Piece]:
    """The pieces of a task: one for each shard, where it can be shared out.

    Args:
        task: as the driver gave it.
        shards: over how many workers a variant's scoring is shared out.
        need: of the cluster, for each piece.
        path: work from its start to the end of all that waits for it.
    """
    parts = sharding.split(task, shards) if isinstance(task, ScoreTask) else [task]
    whole = Whole(task, len(parts))
    for index, part in enumerate(parts):
        yield Piece(whole, index, part, need, path)


def attached(task: Task) -> set[str]:
    """The adapters that a task attaches, also in the reference beside it."""
    if isinstance(task, TrainTask):
        return set()
    beside = task.divergence if isinstance(task, ScoreTask) else None
    steps = [*task.path, *(beside.path if beside and beside.folder is None else ())]
    return {step.adapter for step in steps if isinstance(step, paths.Attach)}


def settled(piece: Piece, outcome: Outcome) -> Iterator[Outcome]:
    """Keeps what came of a piece; yields its task's outcome with the last one."""
    whole = piece.whole
    whole.outcomes[piece.index] = outcome
    if len(whole.outcomes) == whole.shards:
        yield _joined(whole)


def _joined(whole: Whole) -> Outcome:
    outcomes = [whole.outcomes[index] for index in range(whole.shards)]
    if len(outcomes) == 1 or not isinstance(whole.task, ScoreTask):
        return outcomes[0]
    try:
        return sharding.join(whole.task, outcomes)
    except EvalkitError as error:
        return failure(whole.task, error)


def failure(task: Task, error: EvalkitError) -> Outcome:
    """The outcome of a task that no worker performed."""
    return Outcome(
        task, 0.0, error=str(error), traceback=traceback.format_exc(), exit_code=error.exit_code
    )
