"""Runs, jobs and scores in a SQL database; plain records go in and come out."""

from evalkit.store.failures import masked
from evalkit.store.opening import is_new
from evalkit.store.repeats import FAMILY, SEED
from evalkit.store.results import (
    BaselineSummary,
    RepeatResult,
    RunSummary,
    StoredDraw,
    StoredSamples,
    StoredScore,
    StoredTraining,
    VariantResult,
)
from evalkit.store.store import DEFAULT_STORE, Store
from evalkit.store.transfer import ImportedRuns, export_runs, import_runs

__all__ = [
    "DEFAULT_STORE",
    "FAMILY",
    "SEED",
    "BaselineSummary",
    "ImportedRuns",
    "RepeatResult",
    "RunSummary",
    "Store",
    "StoredDraw",
    "StoredSamples",
    "StoredScore",
    "StoredTraining",
    "VariantResult",
    "export_runs",
    "import_runs",
    "is_new",
    "masked",
]
