"""Runs, jobs and scores in a SQL database; plain records go in and come out."""

from evalkit.store.results import (
    RunSummary,
    StoredSamples,
    StoredScore,
    StoredTraining,
    VariantResult,
)
from evalkit.store.store import DEFAULT_STORE, Store

__all__ = [
    "DEFAULT_STORE",
    "RunSummary",
    "Store",
    "StoredSamples",
    "StoredScore",
    "StoredTraining",
    "VariantResult",
]
