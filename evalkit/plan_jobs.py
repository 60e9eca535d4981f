"""What a plan is made of: one record for each kind of job. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from evalkit.records import RepeatKind
from evalkit.suite import AdapterSpec, DivergenceSpec, VariantSpec


@dataclass(frozen=True)
class TrainJob:
    """Fine-tune one adapter."""

    adapter: str
    spec: AdapterSpec
    recipe_key: str
    repeat: int | None = None
    """The seed, where this is not the adapter that ships but the same recipe once more."""

    @property
    def name(self) -> str:
        """'train guanaco', 'train guanaco (seed 1)'."""
        return f"train {self.yields}"

    @property
    def yields(self) -> str:
        """What it trains, by a name of its own: 'guanaco', 'guanaco (seed 1)'."""
        return self.adapter if self.repeat is None else f"{self.adapter} (seed {self.repeat})"


@dataclass(frozen=True)
class ScoreJob:
    """Build one variant and measure everything that the suite asks of it."""

    variant: VariantSpec
    adapters: tuple[str, ...]
    """The adapters that its path attaches, in order."""

    @property
    def name(self) -> str:
        """'score nf4+adapter'."""
        return f"score {self.variant.name}"


@dataclass(frozen=True)
class ReferenceJob:
    """Write the predictions of the variant that divergence is measured from."""

    job: ScoreJob
    """Of the variant."""
    spec: DivergenceSpec

    @property
    def name(self) -> str:
        """'reference fp16'."""
        return f"reference {self.job.variant.name}"


@dataclass(frozen=True)
class RepeatJob:
    """Measure one variant once more, under a condition that should not matter."""

    job: ScoreJob
    kind: RepeatKind
    label: str
    """'seed 1', 'batches of 1,024 tokens, longest last'."""
    training: Mapping[str, TrainJob] = field(default_factory=dict)
    """By adapter: the training that is attached in the place of the one that ships."""

    @property
    def name(self) -> str:
        """'score nf4+adapter (seed 1)', 'score nf4 (A/A)'."""
        return f"{self.job.name} ({'A/A' if self.kind == 'aa' else self.label})"


@dataclass(frozen=True)
class LeftOut:
    """What a run of chosen variants computes nothing of; it takes what the store knows."""

    training: tuple[TrainJob, ...] = ()
    scoring: tuple[ScoreJob, ...] = ()
    repeats: tuple[RepeatJob, ...] = ()
