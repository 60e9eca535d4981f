"""Performs tasks one after another in this process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from evalkit.executors.performing import perform
from evalkit.executors.tasks import Outcome, Task
from evalkit.records import OnProgress


class LocalExecutor:
    """One task at a time: on one device, two models at once only fight for it."""

    def execute(self, tasks: Iterable[Task], on_progress: OnProgress) -> Iterator[Outcome]:
        """Yields each task's outcome before the next one starts."""
        for task in tasks:
            yield perform(task, on_progress)
