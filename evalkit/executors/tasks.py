"""The tasks that a worker performs, as plain data, and what comes of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from evalkit.executors.queue import Queue
from evalkit.paths import Path as VariantPath
from evalkit.records import Corpus, OnProgress, Sample, Score
from evalkit.scoring.windows import WHOLE, Shard
from evalkit.suite import AdapterSpec, DivergenceSpec, PerplexitySpec, SamplesSpec, TaskSpec
from evalkit.tasks.sources import TaskSource
from evalkit.weights.building import BuildContext

if TYPE_CHECKING:  # they bring along what computes
    from evalkit.scoring.divergence import DivergencePart
    from evalkit.scoring.perplexity import PerplexityPart


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
    again: bool = False
    """Train also where the adapter is there."""


@dataclass(frozen=True)
class PerplexityTask:
    """One perplexity of a variant."""

    spec: PerplexitySpec
    corpus: Corpus
    max_tokens_per_document: int | None
    longest_last: bool = False
    """Take the batches in the reverse order."""


@dataclass(frozen=True)
class DivergenceTask:
    """How far a variant's predictions are from a reference's."""

    spec: DivergenceSpec
    corpus: Corpus
    max_tokens_per_document: int | None
    reference: str
    """The key of what is compared with: divergences from unlike references are not compared."""
    folder: Path | None
    """With the reference's log-probabilities; None in lockstep."""
    path: VariantPath
    """Of the reference, which is built beside the variant in lockstep."""


@dataclass(frozen=True)
class ReferenceTask:
    """Build the variant that others are compared with, and write its log-probabilities."""

    name: str
    path: VariantPath
    context: BuildContext
    memory: int
    """Bytes of the device: what needs more is refused before it is loaded."""
    spec: DivergenceSpec
    corpus: Corpus
    max_tokens_per_document: int | None
    out: Path


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
    divergence: DivergenceTask | None = None
    survival: bool = False
    """Measure how much of the merged adapters is in the weights."""
    footprint: bool = False
    """Measure what the variant costs."""
    reload_check: bool = False
    """Save the variant when all else is done, load it again, and compare."""
    shard: Shard = WHOLE
    """The share of the batches that is measured here; see `sharding`."""


FOUND = "found"
"""The fact of a training that had nothing to do: another run trained the adapter meanwhile."""
Task = TrainTask | ReferenceTask | ScoreTask


@dataclass(frozen=True)
class Part:
    """What one shard of a variant's batches gave, to be joined with the other shards'."""

    tokenizer: Path
    """Folder of the tokenizer that was used."""
    perplexities: Mapping[str, PerplexityPart]
    """By metric."""
    divergence: DivergencePart | None


@dataclass(frozen=True)
class Outcome:
    """What came of a task: its facts, and scores or an error."""

    task: Task
    seconds: float
    facts: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Score] = field(default_factory=dict)
    samples: tuple[Sample, ...] = ()
    part: Part | None = None
    """In the place of scores, of a task that measures one shard."""
    error: str | None = None
    traceback: str = ""
    """For `--debug`."""
    exit_code: int = 0
    """Of the error: 3; 2 where the data is at fault; 4 where this machine lacks something."""


class Executor(Protocol):
    """Performs tasks; the order of the outcomes is the order in which they end."""

    def execute(self, tasks: Queue[Task], on_progress: OnProgress) -> Iterator[Outcome]:
        """Yields one outcome for each task, until none is left when the last one was read.

        A task that fails does not stop the others. Tasks that an outcome sets free are added while
        it is read. Closing the iterator stops what runs.
        """
        ...
