"""Evaluation and regression tests for quantised and fine-tuned language models."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evalkit.errors import EvalkitError
    from evalkit.records import Gate, RunRecord, Score, Verdict
    from evalkit.runner import RunOptions, run_suite
    from evalkit.store import Store
    from evalkit.suite import Suite, load_suite

__all__ = [
    "EvalkitError",
    "Gate",
    "RunOptions",
    "RunRecord",
    "Score",
    "Store",
    "Suite",
    "Verdict",
    "load_suite",
    "run_suite",
]

_HOMES = {
    "EvalkitError": "errors",
    "Gate": "records",
    "RunOptions": "runner",
    "RunRecord": "records",
    "Score": "records",
    "Store": "store",
    "Suite": "suite",
    "Verdict": "records",
    "load_suite": "suite",
    "run_suite": "runner",
}


def __getattr__(name: str) -> object:
    """Imports a public name when it is asked for, so that the command line starts at once."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
