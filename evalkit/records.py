"""The plain records that cross module borders. No behaviour but what follows from their fields."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Float64s = NDArray[np.float64]
JsonObject = dict[str, Any]

MetricKind = Literal["perplexity", "mean"]
VerdictName = Literal[
    "PASS", "IMPROVED", "REGRESSED", "INCONCLUSIVE", "INCOMPARABLE", "MISSING", "ERRORED"
]
JobKind = Literal["train", "score"]
JobStatus = Literal["done", "reused", "failed", "cancelled"]
BudgetUnit = Literal["relative", "points", "absolute"]


# ----------------------------------------------------------------------------- data


@dataclass(frozen=True)
class Document:
    """One document of a corpus.

    Exactly one of three forms: `text` alone; `prompt` and `text` (the completion); or
    `messages`, (role, content) pairs that the tokenizer's chat template renders.
    """

    id: str
    """Stable: a digest of the content, so that runs are paired by it."""
    text: str
    prompt: str | None = None
    messages: tuple[tuple[str, str], ...] | None = None
    cluster: str | None = None
    """Documents of one cluster are not independent (one conversation, say)."""


@dataclass(frozen=True)
class Corpus:
    """Documents in order, with where they came from and a digest of all of it."""

    name: str
    documents: tuple[Document, ...]
    origin: str
    """For people: 'builtin:python-reference (Python 3.11.7), test split, 42 of 79 topics'."""
    digest: str


# ----------------------------------------------------------------------------- scores


@dataclass(frozen=True)
class TokenLosses:
    """The loss of every scored token of one document: for the report's token view."""

    unit: int
    """Index into the score's unit ids."""
    tokens: tuple[str, ...]
    losses: NDArray[np.float32]
    """Nats, same length as `tokens`."""


@dataclass(frozen=True)
class Score:
    """One metric of one variant, and the per-unit sums and counts behind it.

    A unit is what is paired between variants: a document, or a window of a stream.
    For `kind == "perplexity"` the value is exp(Σ sums / Σ counts), sums in nats, counts in
    tokens; for `kind == "mean"` it is Σ sums / Σ counts.
    """

    metric: str
    """'perplexity', or 'perplexity/NAME' where the suite names several corpora."""
    kind: MetricKind
    value: float
    stderr: float | None
    """Standard error of `value` (delta method, clustered), None where one unit gives none."""
    unit: str
    """'ppl/token'."""
    higher_is_better: bool
    unit_ids: tuple[str, ...]
    clusters: tuple[str, ...]
    """Same length as `unit_ids`; equal to it where nothing is clustered."""
    sums: Float64s
    counts: Float64s
    extra: Mapping[str, float] = field(default_factory=dict)
    """Other readings of the same forward pass: bits_per_byte, word_perplexity, n_tokens, n_bytes,
    n_words, n_documents, tokens_per_second."""
    comparison: Mapping[str, str] = field(default_factory=dict)
    """What two scores must share to be compared, by name: data, protocol, tokenizer, ..."""
    token_losses: tuple[TokenLosses, ...] = ()

    def __post_init__(self) -> None:
        lengths = {len(self.unit_ids), len(self.clusters), len(self.sums), len(self.counts)}
        if len(lengths) != 1:
            raise ValueError(
                f"{self.metric}: unequal lengths of per-unit fields: {sorted(lengths)}"
            )
        if not math.isfinite(self.value):
            raise ValueError(f"{self.metric}: {self.value} is not finite")


@dataclass(frozen=True)
class Sample:
    """A text that a variant generated from a fixed prompt, greedily."""

    prompt: str
    text: str
    tokens: tuple[str, ...]


# ----------------------------------------------------------------------------- gates


@dataclass(frozen=True)
class Budget:
    """How much worse a metric may get, or an absolute limit.

    `amount` is a fraction of the reference for "relative" (0.01 = 1 %), a fraction of one for
    "points" (0.01 = 1 percentage point), the metric's own unit for "absolute".
    """

    amount: float
    unit: BudgetUnit

    def __str__(self) -> str:
        if self.unit == "relative":
            return f"{self.amount * 100:g} %"
        if self.unit == "points":
            return f"{self.amount * 100:g} pp"
        return f"{self.amount:g}"


@dataclass(frozen=True)
class Gate:
    """One promise about one metric of one variant.

    Either a difference (`against` with `max_increase` or `max_decrease`) or an absolute limit
    (`minimum` or `maximum`, no `against`).
    """

    metric: str
    variant: str
    against: str | None = None
    max_increase: Budget | None = None
    max_decrease: Budget | None = None
    minimum: float | None = None
    maximum: float | None = None
    expect: Literal["regressed"] | None = None
    inconclusive: Literal["fail", "warn"] = "fail"
    place: str = ""
    """'suites/quickstart.yaml:41', for annotations."""


@dataclass(frozen=True)
class Verdict:
    """What a gate came to.

    `effect`, `low`, `high` are fractions of the reference (0.06 = +6 %) for relative budgets, in
    the metric's unit otherwise; the interval is the unadjusted two-sided 95 % one.
    """

    gate: Gate
    verdict: VerdictName
    ok: bool
    warned: bool = False
    """Not a failure, and not to be overlooked: INCONCLUSIVE that the gate lets pass."""
    effect: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    p_adjusted: float | None = None
    n_units: int | None = None
    n_clusters: int | None = None
    effective_clusters: float | None = None
    bootstrap_low: float | None = None
    """The cluster bootstrap's 95 % interval, on the scale of `low` and `high`: a cross-check."""
    bootstrap_high: float | None = None
    message: str = ""
    """One sentence: why, and what would settle it or put it right."""


# ----------------------------------------------------------------------------- runs


@dataclass(frozen=True)
class JobRecord:
    """What became of one job of a run."""

    name: str
    """'train guanaco', 'score nf4'."""
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
    verdicts: tuple[Verdict, ...]
    gates: tuple[Gate, ...] = ()
    place: str = ""
    """The suite's path as given."""


# ----------------------------------------------------------------------------- progress


@dataclass(frozen=True)
class Progress:
    """One tick of a running job, for the live display and the log."""

    job: str
    phase: str
    """'quantise nf4', 'train', 'perplexity', ..."""
    done: int
    total: int | None
    unit: Literal["steps", "tokens", ""] = ""
    detail: str = ""
    """'loss 2.31'."""


OnProgress = Callable[[Progress], None]
