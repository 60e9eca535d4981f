"""What divergence is measured from: written by a job of its own, and gone when the run is over."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from evalkit.executors.tasks import DivergenceTask, ReferenceTask
from evalkit.plan import Plan
from evalkit.plan_jobs import ReferenceJob
from evalkit.weights.building import BuildContext


class ReferenceKeeper:
    """Where the reference's log-probabilities are, and the tasks that write and read them.

    Args:
        plan: the run's; it may measure no divergence.
        folder: for the log-probabilities; not there yet.
    """

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.error: str | None = None
        """Why there is nothing to compare with."""
        self._plan = plan
        self._job: ReferenceJob | None = plan.reference
        self._folder = folder

    def tasks(self, context: BuildContext) -> list[ReferenceTask]:
        """The task that writes the reference; none in lockstep, where nothing is written."""
        job = self._job
        if job is None or job.spec.lockstep:
            return []
        return [
            ReferenceTask(
                name=job.name,
                path=job.job.variant.path,
                context=context,
                memory=self._plan.environment.machine.memory,
                spec=job.spec,
                corpus=self._plan.sources.corpora[job.spec.on],
                max_tokens_per_document=self._plan.suite.data[job.spec.on].max_tokens_per_document,
                out=self._folder,
            )
        ]

    def compared(self, digests: Mapping[str, str]) -> DivergenceTask | None:
        """What a variant must do to be compared; None where there is nothing to compare with.

        Args:
            digests: of the adapters on the reference's path, by name.
        """
        job = self._job
        if job is None or self.error is not None:
            return None
        return DivergenceTask(
            spec=job.spec,
            corpus=self._plan.sources.corpora[job.spec.on],
            max_tokens_per_document=self._plan.suite.data[job.spec.on].max_tokens_per_document,
            reference=self._plan.reference_key(digests),
            folder=None if job.spec.lockstep else self._folder,
            path=job.job.variant.path,
        )

    def delete(self) -> None:
        """Removes what was written."""
        shutil.rmtree(self._folder, ignore_errors=True)
