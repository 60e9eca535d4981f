"""The checks that a task runs by itself, what a failed one stops, and what errors say."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from evalkit import paths
from evalkit.errors import WeightsError
from evalkit.executors.tasks import ScoreTask
from evalkit.records import OnProgress
from evalkit.records.integrity import Finding
from evalkit.weights.building import BuiltVariant


def adapter_findings(task: ScoreTask) -> Iterator[Finding]:
    """Of every LoRA adapter on the path: whether it changes anything."""
    from evalkit.weights.checks import check_zero_adapter

    for step in task.path:
        if isinstance(step, paths.Attach) and step.adapter not in task.context.full:
            yield check_zero_adapter(task.context.adapters[step.adapter])


def reload_findings(
    task: ScoreTask, built: BuiltVariant, on_progress: OnProgress
) -> Iterator[Finding]:
    """Gives the model up. A disk without room leaves the question open, and the scores stand."""
    from evalkit.weights.reload import RELOAD, check_reload, needs_reload_check

    if not needs_reload_check(task.path):
        return
    try:
        yield check_reload(built, task.context, job=task.name, on_progress=on_progress)
    except WeightsError as error:
        yield Finding(RELOAD, False, f"saving and loading again failed: {error}")


def refuse(*findings: Finding) -> None:
    """Stops a job whose numbers would say nothing.

    Raises:
        WeightsError: a check failed, and is a severe one.
    """
    for finding in findings:
        if finding.fails:
            raise WeightsError(f"{finding.check}: {finding.message}")


def explain(error: Exception) -> str:
    """One line for an error that is not ours: where it came from, and what it said."""
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        where = f" while writing {error.filename}" if error.filename else ""
        return (
            f"the disk is full{where}; what was scored before is stored. Free some space, run again"
        )
    text = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
