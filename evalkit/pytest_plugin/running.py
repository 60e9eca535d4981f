"""Running a suite inside of pytest: its store, its cache, and a line for each job."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

    from evalkit.plan import Plan
    from evalkit.records import JobRecord, Progress, RunRecord, Score
    from evalkit.suite import Suite


class LineWatcher:
    """A line on the terminal for the run and for each job: a suite may take minutes."""

    def __init__(self, config: pytest.Config) -> None:
        self._reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
        self._capture: Any = config.pluginmanager.get_plugin("capturemanager")
        self._quiet = self._reporter is None or config.option.verbose < 0

    def started(self, run_id: str, plan: Plan) -> None:
        """The run's id and its size."""
        jobs = len(plan.training) + len(plan.scoring)
        self._line(f"evalkit: run {run_id}: {plan.suite.name}, {jobs} jobs")

    def on_progress(self, tick: Progress) -> None:
        """Says nothing: a line for each job is enough between tests."""

    def job_ended(self, job: JobRecord, scores: Mapping[str, Score]) -> None:
        """What became of a job."""
        values = ", ".join(f"{name} {score.value:.4g}" for name, score in scores.items())
        told = job.error if job.error is not None else values
        self._line(f"evalkit: {job.name}: {job.status}, {job.seconds:.1f} s  {told}".rstrip())

    def _line(self, text: str) -> None:
        if self._quiet:
            return
        if self._capture is None:
            self._reporter.write_line(text)
            return
        with self._capture.global_and_fixture_disabled():
            self._reporter.ensure_newline()
            self._reporter.write_line(text)


def run_for_pytest(suite: Suite, config: pytest.Config) -> RunRecord:
    """Runs a suite with the store and the cache that pytest's options name.

    Raises:
        EvalkitError: nothing could start.
    """
    from evalkit.executors.local import LocalExecutor
    from evalkit.machine import default_cache
    from evalkit.runner import RunOptions, run_suite
    from evalkit.store import Store

    cache = config.getoption("evalkit_cache")
    database = config.getoption("evalkit_db") or os.environ.get("EVALKIT_DB")
    options = RunOptions(
        cache=Path(cache) if cache else default_cache(),
        arguments={"given": {"pytest": [str(arg) for arg in config.invocation_params.args]}},
        baseline=config.getoption("evalkit_baseline"),
        database=database,
    )
    with warnings.catch_warnings(), Store.open(database, create=True) as store:
        # A project's `-W error` is about its own code, not about what libraries deprecate.
        warnings.simplefilter("ignore")
        return run_suite(
            suite, options, store=store, executor=LocalExecutor(), watcher=LineWatcher(config)
        )


def report_for_pytest(record: RunRecord, config: pytest.Config) -> Path | None:
    """Writes the run's HTML report where `--evalkit-reports` asks for it, and returns its path."""
    folder = config.getoption("evalkit_reports")
    if not folder:
        return None
    from evalkit.report.html import write_report

    return write_report(record, Path(folder))
