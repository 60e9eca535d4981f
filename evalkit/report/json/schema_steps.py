"""Parts of a run's JSON: what steps did, and what to ship."""

from __future__ import annotations

from evalkit.records import BudgetUnit
from evalkit.report.json.schema_parts import Part


class IntervalJson(Part):
    """A difference and its 95 % interval; null where there is none."""

    effect: float
    low: float | None
    high: float | None


class EdgeJson(Part):
    """What the steps since a variant's parent did to one metric, paired by unit."""

    effect: float
    """A fraction of the parent's value where `unit` is relative, else the difference."""
    low: float | None
    """The 95 % interval; null where there is none."""
    high: float | None
    unit: BudgetUnit
    nats_per_token: IntervalJson | None = None
    """Of a perplexity: the same effect as a difference, which adds up along a path."""
    bits_per_byte: IntervalJson | None = None
    """Of a perplexity whose bytes were counted: the same again in bits per byte."""
    gained: int | None = None
    """Of a task: samples that only the variant has right."""
    lost: int | None = None


class RecommendationJson(Part):
    """The smallest variant that passes its gates, and how to write it."""

    variant: str | None
    """null: none may be shipped."""
    reasons: list[str]
    """In words."""
    command: str | None
    """For a shell; null where there is nothing to write, or no one folder can hold it."""
