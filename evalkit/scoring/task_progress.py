"""lm-eval's progress bars and log as our ticks: nothing is printed over the display."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any

from evalkit.records import OnProgress, Progress

_LOGGERS = ("lm_eval", "datasets", "transformers", "huggingface_hub")
_SECONDS_BETWEEN = 0.1


class Bars:
    """Counts the requests that lm-eval answers, whatever bars it draws for them."""

    def __init__(self, job: str, phase: str, on_progress: OnProgress) -> None:
        self._job = job
        self._phase = phase
        self._on_progress = on_progress
        self._done = 0
        self._total = 0
        self._told = 0.0

    def open(self, total: int) -> None:
        """A bar of so many requests begins."""
        self._total += total
        self._tell()

    def update(self, count: int) -> None:
        """So many requests were answered."""
        self._done += count
        if time.monotonic() - self._told >= _SECONDS_BETWEEN or self._done >= self._total:
            self._tell()

    def _tell(self) -> None:
        self._told = time.monotonic()
        tick = Progress(self._job, self._phase, self._done, self._total or None, "requests")
        self._on_progress(tick)


def _stand_in(bars: Bars) -> type:
    class Bar:
        """What lm-eval uses of tqdm."""

        def __init__(
            self, iterable: Iterable[Any] | None = None, *, total: int | None = None, **_: Any
        ) -> None:
            self._iterable = iterable
            if iterable is None and total:
                bars.open(total)

        def __iter__(self) -> Iterator[Any]:
            yield from self._iterable or ()

        def update(self, count: int = 1) -> None:
            bars.update(count)

        def close(self) -> None:
            pass

    return Bar


@contextlib.contextmanager
def quiet(bars: Bars, modules: Sequence[ModuleType]) -> Iterator[list[str]]:
    """Turns bars into ticks, and keeps lm-eval's log off the terminal.

    Args:
        bars: what counts instead.
        modules: those of lm-eval that draw bars, each by a `tqdm` of its own.

    Yields:
        The texts of the warnings that were logged meanwhile.
    """
    import datasets

    drawn = {module: module.tqdm for module in modules if hasattr(module, "tqdm")}
    heard = _Heard()
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [(logger.propagate, logger.handlers[:]) for logger in loggers]
    bars_off = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    for logger in loggers:
        logger.propagate, logger.handlers = False, [heard]
    for module in drawn:
        module.tqdm = _stand_in(bars)  # type: ignore[attr-defined]
    try:
        yield heard.warnings
    finally:
        for module, tqdm in drawn.items():
            module.tqdm = tqdm  # type: ignore[attr-defined]
        for logger, (propagate, handlers) in zip(loggers, before, strict=True):
            logger.propagate, logger.handlers = propagate, handlers
        if not bars_off:
            datasets.enable_progress_bars()


class _Heard(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.warnings: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.warnings.append(record.getMessage())
