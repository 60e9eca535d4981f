"""What the command line says about a run, and who looks on while it goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from evalkit.plan import Plan
from evalkit.records import JobRecord, JsonObject, Progress, Score
from evalkit.running.repeats import Noise


@dataclass(frozen=True)
class RunOptions:
    """What the command line says about a run, beside the suite."""

    cache: Path
    trust_remote_code: bool = False
    force: bool = False
    """Compute again what is stored."""
    only: tuple[str, ...] = ()
    """The variants to compute; all of the suite's where it is empty."""
    noise: Noise | None = None
    """Measure, beside the suite, the machine's noise ("score") or training's ("train")."""
    arguments: JsonObject = field(default_factory=dict)
    """Given and defaulted, for the record."""
    baseline: str | None = None
    """A baseline's name or its file; None for the suite's newest `main`."""
    bootstrap: bool = False
    """Promote this run where the suite has no baseline yet and every other gate is ok."""
    database: str | None = None
    """What `--db` said, for the command that promotes this run."""


class Watcher(Protocol):
    """Who looks on: the terminal's progress display, or the log."""

    def started(self, run_id: str, plan: Plan) -> None:
        """The run is planned and has its id."""
        ...

    def on_progress(self, tick: Progress) -> None:
        """A job ticks."""
        ...

    def job_ended(self, job: JobRecord, scores: Mapping[str, Score]) -> None:
        """A job is done, reused, or failed; its result is stored."""
        ...
