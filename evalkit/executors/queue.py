"""Jobs that can start now, and which of them comes first. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Ready(Generic[T]):
    """A job of which everything that it needs is there."""

    job: T
    turn: int
    """Where the plan has it."""
    path: float
    """How much work there is from its start to the end of the last job that waits for it."""


class Queue(Generic[T]):
    """Jobs that can start. Whoever reads an outcome may add what it set free.

    One worker takes them in turn; several take the longest path first.
    """

    def __init__(self) -> None:
        self._ready: list[Ready[T]] = []

    def __bool__(self) -> bool:
        return bool(self._ready)

    def add(self, job: T, *, turn: int = 0, path: float = 0.0) -> None:
        """Adds a job that can start now."""
        self._ready.append(Ready(job, turn, path))

    def in_turn(self) -> Iterator[T]:
        """Takes out every job, also those that are added meanwhile, each time the plan's first."""
        while self._ready:
            first = min(self._ready, key=lambda ready: ready.turn)
            self._ready.remove(first)
            yield first.job

    def longest_first(self, fits: Callable[[T], bool]) -> Iterator[Ready[T]]:
        """Takes out what fits: list scheduling by the longest path, as Graham 1969 bounds it.

        Args:
            fits: whether a job can start beside those that run, the ones just given included. One
                that does not fit lets shorter ones pass.
        """
        for ready in sorted(self._ready, key=lambda ready: (-ready.path, ready.turn)):
            if fits(ready.job):
                self._ready.remove(ready)
                yield ready


def longest_paths(
    costs: Mapping[str, float], needs: Mapping[str, Collection[str]]
) -> dict[str, float]:
    """How much work there is from each job's start to the end of the last that waits for it.

    Args:
        costs: of each job, in any unit.
        needs: of a job, those that must have ended before it starts; no circle.
    """
    waiting: dict[str, list[str]] = {name: [] for name in costs}
    for name, needed in needs.items():
        for each in needed:
            waiting[each].append(name)
    paths: dict[str, float] = {}

    def path(name: str) -> float:
        if name not in paths:
            paths[name] = costs[name] + max(map(path, waiting[name]), default=0.0)
        return paths[name]

    return {name: path(name) for name in costs}
