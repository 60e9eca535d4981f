"""Runs, their jobs and variants, and the ticks of a run that goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from evalkit.records.judging import Gate, JsonObject, Verdict
from evalkit.records.scores import Repeat, Sample, Score

JobKind = Literal["train", "reference", "score"]
JobStatus = Literal["done", "reused", "failed", "cancelled"]


@dataclass(frozen=True)
class JobRecord:
    """What became of one job of a run."""

    name: str
    """'train guanaco', 'reference fp16', 'score nf4'."""
    kind: JobKind
    status: JobStatus
    seconds: float
    error: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    """JSON: effective dtype, source precision, peak memory, notes, loss history, ..."""
    reused_from: str | None = None
    """The run that computed it."""


@dataclass(frozen=True)
class VariantRecord:
    """One variant of a run: its path and everything measured on it."""

    name: str
    path: tuple[JsonObject, ...]
    """Normalised steps: ({"load": "fp16"}, {"quantize": {...}}, {"attach": "guanaco"})."""
    parent: str | None
    """Nearest scored ancestor in the variant graph."""
    edge: str
    """What the steps since the parent do, in words: 'quantize nf4', 'attach guanaco, merge'."""
    job: JobRecord | None
    scores: Mapping[str, Score]
    samples: tuple[Sample, ...] = ()
    repeats: tuple[Repeat, ...] = ()


@dataclass(frozen=True)
class RunRecord:
    """A run as the store hands it out: enough to judge and to draw it, with no torch."""

    id: str
    suite: str
    started: str
    """ISO 8601, UTC."""
    seconds: float | None
    exit_code: int | None
    suite_text: str
    suite_json: JsonObject
    """The suite after `extends`, `--set` and presets: enough to run it again."""
    arguments: JsonObject
    """{"given": {...}, "defaulted": {...}} of the command line."""
    provenance: JsonObject
    variants: tuple[VariantRecord, ...]
    adapters: tuple[JobRecord, ...]
    """The training jobs."""
    verdicts: tuple[Verdict, ...]
    gates: tuple[Gate, ...] = ()
    place: str = ""
    """The suite's path as given."""
    references: tuple[JobRecord, ...] = ()
    """The jobs that wrote what divergence is measured from."""


@dataclass(frozen=True)
class Progress:
    """One tick of a running job, for the live display and the log."""

    job: str
    phase: str
    """'quantise nf4', 'train', 'perplexity', ..."""
    done: int
    total: int | None
    unit: Literal["steps", "tokens", "requests", ""] = ""
    detail: str = ""
    """'loss 2.31'."""


OnProgress = Callable[[Progress], None]
