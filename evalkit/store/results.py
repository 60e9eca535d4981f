"""What goes into the store and comes out of it, where `evalkit.records` has no record for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from evalkit.records import JobRecord, JsonObject, RepeatKind, Sample, Score


@dataclass(frozen=True)
class VariantResult:
    """Everything that one scoring job came to; written in one transaction."""

    name: str
    path: tuple[JsonObject, ...]
    """Normalised steps as JSON."""
    parent: str | None
    """Nearest scored ancestor in the variant graph."""
    edge: str
    """What the steps since the parent do, in words."""
    job: JobRecord
    scores: Mapping[str, tuple[str, Score]] = field(default_factory=dict)
    """Computed now: metric to (reuse key, score)."""
    reused: Mapping[str, int] = field(default_factory=dict)
    """Computed before: metric to the `StoredScore.id`."""
    samples: tuple[Sample, ...] = ()
    """Generated now."""
    samples_key: str | None = None
    """Reuse key of `samples`; needed where there are any."""
    reused_samples: int | None = None
    """Generated before: the `StoredSamples.id`."""


@dataclass(frozen=True)
class RepeatResult:
    """A variant measured once more; written in one transaction."""

    variant: str
    """The variant of the same run, which is there already."""
    kind: RepeatKind
    label: str
    job: JobRecord
    scores: Mapping[str, tuple[str, Score]] = field(default_factory=dict)
    """Computed now: metric to (reuse key, score)."""
    reused: Mapping[str, int] = field(default_factory=dict)
    """Computed before: metric to the `StoredScore.id`."""


@dataclass(frozen=True)
class StoredScore:
    """A score that is already known, without its per-unit values."""

    id: int
    run: str
    """The run that computed it."""
    metric: str
    value: float
    stderr: float | None
    extra: Mapping[str, float]
    units: int
    """How many it has."""
    kept_units: int
    """Of how many of them the tokens are kept."""


@dataclass(frozen=True)
class StoredSamples:
    """Texts that are already generated."""

    id: int
    run: str
    """The run that generated them."""
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class StoredTraining:
    """A training job that is already done."""

    run: str
    """The run that trained."""
    job: JobRecord
    content_digest: str | None
    """Digest of the adapter it wrote."""


@dataclass(frozen=True)
class StoredDraw:
    """A training that differs from others of its recipe in the seed alone."""

    run: str
    """The run that trained."""
    seed: int
    content_digest: str
    """Digest of the adapter it wrote."""


@dataclass(frozen=True)
class RunSummary:
    """One line of a list of runs."""

    id: str
    suite: str
    started: str
    """ISO 8601, UTC."""
    seconds: float | None
    exit_code: int | None
    """None: the run has not ended, or was killed."""
    variants: int
    scored: int
    """Variants whose job is done or reused."""
    verdicts: Mapping[str, int]
    """How many of each verdict."""


@dataclass(frozen=True)
class BaselineSummary:
    """One line of a list of baselines."""

    suite: str
    name: str
    run: str
    promoted: str
    """ISO 8601, UTC."""
    forced: bool
    current: bool
    """The newest of its suite and name: what gates are judged by."""
    variants: int
    scores: int
