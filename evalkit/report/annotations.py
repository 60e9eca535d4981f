"""GitHub's workflow commands: an error on the suite's line of every gate that is not ok.

The escapes are those of GitHub's own toolkit (`actions/toolkit`, `packages/core/src/command.ts`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from evalkit.errors import EvalkitError, SuiteError
from evalkit.records import RunRecord, Verdict
from evalkit.report.facts import worst_first
from evalkit.report.gate_text import (
    failed_jobs,
    gate_place,
    headline,
    outcome,
    split_place,
)
from evalkit.report.words import clean

_LONGEST = 4_000
Level = Literal["error", "warning"]


def annotation_lines(run: RunRecord, *, root: Path) -> list[str]:
    """One workflow command a line, errors first.

    Args:
        run: a judged run.
        root: the checkout that GitHub's paths are relative to (`$GITHUB_WORKSPACE`).
    """
    lines = [_gate(run, verdict, root) for verdict in worst_first(run.verdicts)]
    place = split_place(run.place)
    jobs = [
        _command("error", f"{job.name} failed", job.error, place, root) for job in failed_jobs(run)
    ]
    told = [*lines, *jobs]
    return sorted((line for line in told if line), key=lambda line: line.startswith("::warning"))


def error_annotations(error: EvalkitError, *, root: Path) -> list[str]:
    """The same for what stopped a run before it began: each problem of a suite on its line."""
    if not isinstance(error, SuiteError):
        return [_command("error", "evalkit", str(error), ("", None), root)]
    return [
        _command("error", problem.where or "suite", problem.what, split_place(problem.place), root)
        for problem in error.problems
    ]


def _gate(run: RunRecord, verdict: Verdict, root: Path) -> str:
    result = outcome(verdict)
    if result == "passed":
        return ""
    level: Level = "warning" if result == "warned" else "error"
    title = headline(verdict)
    return _command(level, title, verdict.message or title, gate_place(run, verdict.gate), root)


def _command(
    level: Level, title: str, message: str, place: tuple[str, int | None], root: Path
) -> str:
    file, line = _below(place[0], root), place[1]
    properties = {"file": file, "line": str(line) if file and line else "", "title": title}
    given = [f"{key}={_property(value)}" for key, value in properties.items() if value]
    return f"::{level} {','.join(given)}::{_data(message)}"


def _below(file: str, root: Path) -> str:
    """A file as GitHub names it, relative to the checkout; empty where it lies outside."""
    if not file:
        return ""
    relative = os.path.relpath(file, root)
    outside: Sequence[str] = (os.pardir, f"{os.pardir}{os.sep}")
    if relative == outside[0] or relative.startswith(outside[1]):
        return ""
    return Path(relative).as_posix()


def _data(text: str) -> str:
    shown = clean(text, longest=_LONGEST)
    return shown.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
