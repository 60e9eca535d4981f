"""Performs tasks one after another in this process."""

from __future__ import annotations

from collections.abc import Iterator

from evalkit.executors.queue import Queue
from evalkit.executors.tasks import Outcome, Task
from evalkit.records import OnProgress


class LocalExecutor:
    """One task at a time: on one device, two models at once only fight for it."""

    def __init__(self, *, owns_process: bool = False) -> None:
        """Args: owns_process: nothing else than evalkit has objects in this process."""
        self._owns_process = owns_process

    def execute(self, tasks: Queue[Task], on_progress: OnProgress) -> Iterator[Outcome]:
        """Yields each task's outcome before the next one starts."""
        for task in tasks.in_turn():
            # Only now: what computes need not be imported where every result is reused.
            from evalkit.executors.performing import perform
            from evalkit.weights.memory import spare_libraries

            if self._owns_process:
                spare_libraries()
            yield perform(task, on_progress)
