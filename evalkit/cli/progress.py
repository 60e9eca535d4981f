"""Who looks on while jobs run: a live display on a terminal, log lines elsewhere."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
)

from evalkit.plan import Plan
from evalkit.records import COSTS, JobRecord, Score
from evalkit.records import Progress as Tick

_LOG_EVERY_SECONDS = 15.0
_WIDE_ENOUGH_FOR_A_BAR = 110
_FROM_CACHE = "reused from the cache: no run in this store trained it"


@contextmanager
def watch(console: Console) -> Iterator[LiveWatcher | LogWatcher]:
    """The watcher that suits the console; its display ends with the block."""
    if not console.is_terminal:
        yield LogWatcher(console)
        return
    bar = [BarColumn(bar_width=20)] if console.width >= _WIDE_ENOUGH_FOR_A_BAR else []
    display = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        *bar,
        TextColumn("{task.fields[standing]}"),
        console=console,
        transient=True,
    )
    with display:
        yield LiveWatcher(display)


@dataclass(frozen=True)
class _Phase:
    name: str
    started: float
    first: int
    """What was done when it began."""


class _Counter:
    """Counts jobs, and the speed of each one's phase: on a cluster, several run at once."""

    def __init__(self) -> None:
        self.jobs = 0
        self.ended = 0
        self._phases: dict[str, _Phase] = {}

    def enter(self, tick: Tick) -> bool:
        """Notes the tick's phase; True where it is a new one."""
        known = self._phases.get(tick.job)
        if known is not None and known.name == tick.phase:
            return False
        self._phases[tick.job] = _Phase(tick.phase, time.monotonic(), tick.done)
        return True

    def end(self, job: str) -> None:
        """Counts a job that has ended."""
        self.ended += 1
        self._phases.pop(job, None)

    def moved(self, tick: Tick) -> bool:
        """Whether anything was done since the phase began."""
        return tick.done > self._phases[tick.job].first

    def rate(self, tick: Tick) -> float | None:
        """Units a second since the phase began, None before that can be told."""
        phase = self._phases[tick.job]
        seconds = time.monotonic() - phase.started
        done = tick.done - phase.first
        return done / seconds if done > 0 and seconds >= 0.5 else None

    def speed(self, tick: Tick) -> str:
        """'1,234 tokens/s', empty before there is a speed."""
        rate = self.rate(tick)
        if rate is None or not tick.unit:
            return ""
        return f"{rate:,.0f} {tick.unit}/s" if rate >= 10 else f"{rate:.2f} {tick.unit}/s"

    def title(self, tick: Tick) -> str:
        """'[3/8] score nf4: perplexity'."""
        return f"[{min(self.ended + 1, self.jobs)}/{self.jobs}] {tick.job}: {tick.phase}"

    def standing(self, tick: Tick) -> str:
        """'400/1,000 tokens, 20 tokens/s, 0:30 left'."""
        speed = "" if "/s" in tick.detail else self.speed(tick)
        return ", ".join(filter(None, (_amount(tick), speed, tick.detail, self.remaining(tick))))

    def remaining(self, tick: Tick) -> str:
        """'1:20 left', empty before it can be told."""
        rate = self.rate(tick)
        if tick.total is None or rate is None:
            return ""
        left = round((tick.total - tick.done) / rate)
        return f"{left // 60}:{left % 60:02d} left"


class LiveWatcher:
    """A bar for each running job; a line for each that has ended."""

    def __init__(self, display: Progress) -> None:
        self._display = display
        self._counter = _Counter()
        self._bars: dict[str, TaskID] = {}

    def started(self, run_id: str, plan: Plan) -> None:
        """Prints the run's id and counts its jobs."""
        self._counter.jobs = _jobs(plan)
        self._display.console.print(_headline(run_id, plan), highlight=False, soft_wrap=True)

    def on_progress(self, tick: Tick) -> None:
        """Moves the bar; a new phase starts a new one."""
        if self._counter.enter(tick):
            self._clear_bar(tick.job)
            self._bars[tick.job] = self._display.add_task("", total=tick.total, standing="")
        self._display.update(
            self._bars[tick.job],
            description=escape(self._counter.title(tick)),
            completed=tick.done,
            total=tick.total,
            standing=escape(self._counter.standing(tick)),
        )

    def job_ended(self, job: JobRecord, scores: Mapping[str, Score]) -> None:
        """Prints the job's line above the bars."""
        self._counter.end(job.name)
        self._clear_bar(job.name)
        self._display.console.print(escape(_job_line(job, scores)), highlight=False, soft_wrap=True)

    def _clear_bar(self, job: str) -> None:
        if job in self._bars:
            self._display.remove_task(self._bars.pop(job))


class LogWatcher:
    """A line when a phase starts, at most one every 15 seconds while it runs, one for each job."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._counter = _Counter()
        self._last = 0.0

    def started(self, run_id: str, plan: Plan) -> None:
        """Logs the run's id and counts its jobs."""
        self._counter.jobs = _jobs(plan)
        self._log(_headline(run_id, plan))

    def on_progress(self, tick: Tick) -> None:
        """Logs a phase's beginning, and then now and then where it stands."""
        if not self._counter.enter(tick) and time.monotonic() - self._last < _LOG_EVERY_SECONDS:
            return
        text = f" {self._counter.standing(tick)}" if self._counter.moved(tick) else ""
        self._log(f"{self._counter.title(tick)}{text}")

    def job_ended(self, job: JobRecord, scores: Mapping[str, Score]) -> None:
        """Logs the job's line."""
        self._counter.end(job.name)
        self._log(_job_line(job, scores))

    def _log(self, line: str) -> None:
        self._last = time.monotonic()
        stamp = time.strftime("%H:%M:%S")
        self._console.print(f"{stamp} {line}", markup=False, highlight=False, soft_wrap=True)


def _jobs(plan: Plan) -> int:
    parts = (plan.training, plan.scoring, plan.retraining, plan.repeats)
    writes = plan.reference is not None and not plan.reference.spec.lockstep
    return sum(len(part) for part in parts) + writes


def _headline(run_id: str, plan: Plan) -> str:
    machine = plan.environment.machine
    training = len(plan.training) + len(plan.retraining)
    again = f" and {len(plan.repeats)} again" if plan.repeats else ""
    of_all = f" of {len(plan.every_variant)}" if plan.left_out.scoring else ""
    return (
        f"run {run_id}: {plan.suite.name}, {training} to train, "
        f"{len(plan.scoring)}{of_all} variants to score{again} on {machine.name} "
        f"({machine.cores} cores)"
    )


def _amount(tick: Tick) -> str:
    if not tick.unit or tick.total is None:
        return ""
    return f"{tick.done:,}/{tick.total:,} {tick.unit}"


def _taken(job: JobRecord) -> Iterator[str]:
    """'perplexity reused from run 20261121-224455-a3f1', for each run that numbers came from."""
    by_run: dict[str, list[str]] = defaultdict(list)
    for metric, run in job.facts.get("reused", {}).items():
        if metric not in COSTS:
            by_run[run].append(metric)
    for run, metrics in by_run.items():
        yield f"{', '.join(metrics)} reused from run {run}"


def _job_line(job: JobRecord, scores: Mapping[str, Score]) -> str:
    marks = {"done": "✓", "reused": "↺", "failed": "✗", "cancelled": "✗"}
    qualities = {name: score for name, score in scores.items() if name not in COSTS}
    values = ", ".join(f"{name} {score.value:.4g}" for name, score in qualities.items())
    if job.status == "reused":
        told = f"reused from run {job.reused_from}" if job.reused_from else _FROM_CACHE
    elif job.status == "failed":
        told = f"FAILED: {job.error}"
    else:
        told = ", ".join((f"{job.seconds:.1f} s", *_taken(job)))
    return "  ".join(filter(None, (f"{marks[job.status]} {job.name}", values, told)))
