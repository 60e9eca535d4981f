"""What later runs are compared with: promoted, written to a file, chosen."""

from evalkit.baselines.promoting import (
    DEFAULT_BASELINE,
    baseline_facts,
    check_baseline_name,
    environment_changes,
    failed_gates,
    failed_jobs,
    gate_words,
    missing_scores,
    promote_command,
    relaxed_budgets,
    source_changes,
)

__all__ = [
    "DEFAULT_BASELINE",
    "baseline_facts",
    "check_baseline_name",
    "environment_changes",
    "failed_gates",
    "failed_jobs",
    "gate_words",
    "missing_scores",
    "promote_command",
    "relaxed_budgets",
    "source_changes",
]
