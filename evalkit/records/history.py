"""Every run of a suite as later ones look back on it: all values, nothing behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evalkit.records.runs import RunRecord


@dataclass(frozen=True)
class PastScore:
    """What an outline leaves out of a score and a history needs."""

    id: int
    """The stored score: runs that share it measured it once."""
    n_clusters: int
    comparison_key: str
    """Equal keys: the same units, measured in the same way."""


@dataclass(frozen=True)
class PastRun:
    """A run among the others of its suite."""

    outline: RunRecord
    """The run with its scores as they are told, not as they are judged: every `sums` is NaN, so
    that nothing is worked out from it unnoticed. Token losses, outcomes, modules, samples, repeats,
    facts of training jobs and the suite's text are left out."""
    scores: Mapping[str, Mapping[str, PastScore]]
    """By variant, then by metric; the same keys as the outline's scores."""
    stamp: str
    """SHA-256 of all that the outline was read from: it changes when the run is judged again."""


@dataclass(frozen=True)
class Promotion:
    """A run that was made a baseline."""

    name: str
    run: str
    """Perhaps of another store."""
    promoted: str
    """ISO 8601, UTC."""


@dataclass(frozen=True)
class History:
    """All runs of one suite."""

    suite: str
    runs: tuple[PastRun, ...]
    """Oldest first."""
    baselines: tuple[Promotion, ...]
    """The newest of each name, by name: what gates are judged by now."""
