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

__all__ = [
    "DEFAULT_STORE",
    "FAMILY",
    "SEED",
    "BaselineSummary",
    "RepeatResult",
    "RunSummary",
    "Store",
    "StoredDraw",
    "StoredSamples",
    "StoredScore",
    "StoredTraining",
    "VariantResult",
    "is_new",
    "masked",
]
