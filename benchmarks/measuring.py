"""What the benchmarks share: what a process costs, goals and whether they were met."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from evalkit.machine import detect_machine

ROOT = Path(__file__).resolve().parents[1]
QUIET = 1.3
"""Runnable threads for each core up to which the clock is believed; a side alone brings 1."""


@dataclass(frozen=True)
class Cost:
    """What processes took, started one after another."""

    wall: float = 0.0
    """Seconds by the clock."""
    cpu: float = 0.0
    """Seconds of all cores, user and system, with what they started themselves."""
    peak: float = 0.0
    """Bytes resident of the largest one."""

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.wall + other.wall, self.cpu + other.cpu, max(self.peak, other.peak))


@dataclass(frozen=True)
class Goal:
    """A ratio that was measured, and what it should be."""

    what: str
    goal: str
    measured: str
    met: bool | None
    """None where there is no goal, or where it was not judged."""
    clock: bool = False
    """Read off the clock, which says nothing where other work wants the same cores."""


def environment_with(changes: Mapping[str, str]) -> dict[str, str]:
    """This process's environment for one that is measured.

    What is installed was compiled once; to compile it in each process is nobody's cost.
    """
    whole = {**os.environ, **changes}
    whole.pop("PYTHONDONTWRITEBYTECODE", None)
    return whole


def run_process(
    arguments: Sequence[str | Path], *, environment: Mapping[str, str] | None = None
) -> tuple[Cost, str]:
    """Run this Python on arguments; what it cost, and what it printed.

    Raises:
        SystemExit: it failed; with the end of what it said.
    """
    command = [sys.executable, *map(str, arguments)]
    inherited = environment_with(environment or {})
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=err, env=inherited)
        # Popen's own wait would not tell what the process used.
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        if process.returncode:
            said = out.read()[-1000:] + err.read()[-3000:]
            raise SystemExit(f"{' '.join(command)}: exit {process.returncode}\n{said}")
        unit = 1 if sys.platform == "darwin" else 1024
        return Cost(wall, used.ru_utime + used.ru_stime, used.ru_maxrss * unit), out.read()


def machine_line() -> str:
    """The machine in words: CPU, cores, memory, versions."""
    from importlib.metadata import version

    machine = detect_machine()
    names = ("torch", "transformers", "peft", "bitsandbytes", "lm-eval")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    memory = f"{machine.memory / 2**30:.0f} GiB"
    return (
        f"{machine.name}, {machine.cores} cores, {memory}; Python {platform.python_version()}, "
        f"{versions}"
    )


def arguments_of(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark of the page has."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the goals to this file")
    parser.add_argument("--rounds", type=int, default=2, help="alternations of the sides")
    return parser


def judged(
    goals: Sequence[Goal], notes: Sequence[str], busy: float
) -> tuple[list[Goal], list[str]]:
    """Goals by the clock are not judged where a core had more to do than one side brings.

    Args:
        goals: as measured.
        notes: what is said beside them.
        busy: runnable threads for each core, over the last 15 minutes.
    """
    said = [*notes, f"runnable threads for each core over the last 15 minutes: {busy:.1f}"]
    if busy <= QUIET:
        return list(goals), said
    said.append("other work wanted the same cores: what the clock said is shown and not judged")
    return [replace(goal, met=None) if goal.clock else goal for goal in goals], said


def report(title: str, goals: Sequence[Goal], notes: Sequence[str], file: Path | None) -> None:
    """Print what was measured; write it to a file for the page."""
    busy = os.getloadavg()[2] / (os.cpu_count() or 1)
    goals, notes = judged(goals, notes, busy)
    print(f"\n{title}")
    for goal in goals:
        met = {True: "met", False: "MISSED", None: "-"}[goal.met]
        print(f"  {goal.what}: {goal.measured} (goal: {goal.goal or '-'}) {met}")
    for note in notes:
        print(f"  {note}")
    if file is not None:
        content = {"title": title, "goals": [asdict(g) for g in goals], "notes": list(notes)}
        file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
