"""What runs on a node of a Ray cluster: one task, after a look at whether the node may run it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from evalkit.errors import MachineError, WeightsError
from evalkit.executors.performing import perform
from evalkit.executors.tasks import Outcome, Task
from evalkit.machine import detect_machine, package_versions
from evalkit.plan_keys import SOME_PACKAGES, TASK_PACKAGES, TRAINING_PACKAGES
from evalkit.records import Progress
from evalkit.seals import is_unbroken
from evalkit.sources import adapter_digest
from evalkit.weights.memory import spare_libraries

_TICK_SECONDS = 0.2
_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class Place:
    """What a node must have in common with the driver for its numbers to be the driver's."""

    folder: str
    """Where the driver runs: relative paths begin there."""
    machine: Mapping[str, str]
    """Of `machine_facts`."""
    probe: Path
    """A file that the driver wrote into the cache."""
    adapters: Mapping[Path, str]
    """The digest of each adapter's content that the task attaches, by its folder."""
    patience: float
    """Seconds in which a file of the driver's must appear: network file systems take a while."""


def machine_facts() -> dict[str, str]:
    """What of this machine is in the keys of numbers."""
    machine = detect_machine()
    return {
        "device": f"{machine.device}, {machine.name}",
        "driver": machine.driver,
        "threads": str(machine.threads),
        "dtypes": str(machine.effective_dtypes()),
        **package_versions((*TRAINING_PACKAGES, *TASK_PACKAGES, *SOME_PACKAGES, "evalkit-lm")),
    }


def perform_here(task: Task, place: Place, tell: Callable[[Progress], None]) -> dict[str, Any]:
    """Performs a task on this node.

    Args:
        task: with paths as the driver has them.
        place: of the driver.
        tell: sends a tick to the driver; called at most five times a second for each phase.

    Returns:
        The outcome's fields without the task, which the driver has.
    """
    started = time.perf_counter()
    try:
        _check_place(task, place)
    except (MachineError, WeightsError) as error:
        seconds = time.perf_counter() - started
        outcome = Outcome(task, seconds, error=str(error), exit_code=error.exit_code)
    else:
        spare_libraries()
        outcome = perform(task, _Throttled(tell))
    return {
        field.name: getattr(outcome, field.name)
        for field in fields(outcome)
        if field.name != "task"
    }


class _Throttled:
    """Passes on a phase's first and last tick, and a few between."""

    def __init__(self, tell: Callable[[Progress], None]) -> None:
        self._tell = tell
        self._phase = ""
        self._told = 0.0

    def __call__(self, tick: Progress) -> None:
        now = time.monotonic()
        waited = now - self._told >= _TICK_SECONDS
        if waited or tick.phase != self._phase or tick.done == tick.total:
            self._phase, self._told = tick.phase, now
            self._tell(tick)


def _check_place(task: Task, place: Place) -> None:
    """Refuses to compute what would be kept under another machine's key, or on other files.

    Raises:
        MachineError: says what this node lacks.
    """
    here = f"node {os.uname().nodename}"
    mine = machine_facts()
    unlike = [
        f"{name} is {mine.get(name)!r}, and where evalkit runs it is {theirs!r}"
        for name, theirs in place.machine.items()
        if mine.get(name) != theirs
    ]
    if unlike:
        raise MachineError(
            f"{here}: {'; '.join(unlike)}. "
            "Numbers are kept under the machine and the versions that made them, so all nodes, "
            "the one that evalkit runs on too, must be alike"
        )
    try:
        os.chdir(place.folder)
    except OSError as error:
        raise MachineError(
            f"{here}: the folder {place.folder} that evalkit runs in is not there: "
            "start evalkit in a folder that all nodes share"
        ) from error
    waited = f"(looked for {place.patience:g} s)"
    if not _appears(place.probe.is_file, place.patience):
        raise MachineError(
            f"{here}: the cache {place.probe.parent} is not the one that evalkit sees {waited}: "
            "give --cache a folder on a file system that all nodes share"
        )
    for folder, digest in place.adapters.items():
        same = partial(_is_adapter, folder, digest, task.context.cache)
        if not _appears(same, place.patience):
            what = "is not the one that evalkit sees" if folder.is_dir() else "is not there"
            raise MachineError(
                f"{here}: the adapter in {folder} {what} {waited}: it must be on a file system "
                "that all nodes share, and stay as it is while evalkit runs"
            )


def _is_adapter(folder: Path, digest: str, cache: Path) -> bool:
    """Whether every file is what the seal says, and the content what the driver digested."""
    try:
        return is_unbroken(folder, cache) and adapter_digest(folder, cache) == digest
    except WeightsError:
        return False


def _appears(there: Callable[[], bool], patience: float) -> bool:
    end = time.monotonic() + patience
    while not there():
        if time.monotonic() >= end:
            return False
        time.sleep(_LOOK_SECONDS)
    return True
