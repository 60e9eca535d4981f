"""What a reader must know of the baseline that a run was judged by, from the run's record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evalkit.baselines import failed_gates, failed_jobs
from evalkit.records import BASELINE, RunRecord
from evalkit.report.words import joined

__all__ = ["baseline_notes", "promotion_hint", "relaxed_notes"]

_COMMAND = "evalkit baseline promote"
_MOST_DIFFERENCES = 8


def relaxed_notes(run: RunRecord) -> list[str]:
    """Every gate that promises less than the baseline's did, in a sentence each."""
    facts = _facts(run)
    since = f"since baseline {facts.get('name')}, run {facts.get('run')}"
    return [f"{what}, {since}." for what in facts.get("relaxed", ())]


def baseline_notes(run: RunRecord) -> list[str]:
    """Which run was compared with, what is loose, and what else differed between the two."""
    facts = _facts(run)
    notes = [*relaxed_notes(run), *_bootstrap_notes(run, facts)]
    if not facts or not any(gate.against == BASELINE for gate in run.gates):
        return notes
    where = f", read from {facts['place']}" if facts.get("place") else ""
    whose = f" of suite {facts['suite']}" if facts.get("suite") != run.suite else ""
    if facts.get("run") == run.id:
        notes.append(
            f"This run is itself baseline {facts.get('name')}: it is compared with itself."
        )
    else:
        notes.append(f"Gates against the baseline compare with {_name(facts)}{whose}{where}.")
    if facts.get("forced"):
        notes.append(
            "That baseline was promoted with --force: its run was not whole, or a gate not ok."
        )
    differs = list(facts.get("differs", ()))
    if differs:
        shown = [*differs[:_MOST_DIFFERENCES]]
        if len(differs) > len(shown):
            shown.append(f"{len(differs) - len(shown)} more")
        notes.append(
            f"Another environment than the baseline's, compared all the same: {joined(shown)}."
        )
    return notes


def promotion_hint(run: RunRecord) -> str:
    """The command that promotes the run, where a gate asks for it; else empty."""
    for verdict in run.verdicts:
        if verdict.gate.against == BASELINE and not verdict.ok and _COMMAND in verdict.message:
            return verdict.message[verdict.message.index(_COMMAND) :]
    return ""


def _bootstrap_notes(run: RunRecord, facts: Mapping[str, Any]) -> list[str]:
    given = run.arguments.get("given")
    if not isinstance(given, Mapping) or given.get("bootstrap") is not True:
        return []
    if facts.get("run") == run.id:
        return [f"--bootstrap promoted this run: it is the first baseline {facts.get('name')}."]
    if facts:
        return [f"--bootstrap changed nothing: there is a baseline, {_name(facts)}."]
    reasons = [*failed_jobs(run), *failed_gates(run)]
    because = f": {joined(reasons[:3])}" if reasons else ""
    return [f"--bootstrap did not promote this run{because}."]


def _facts(run: RunRecord) -> Mapping[str, Any]:
    facts = run.provenance.get("baseline")
    return facts if isinstance(facts, Mapping) else {}


def _name(facts: Mapping[str, Any]) -> str:
    """'main (run 20261121-224455-a3f1, promoted 2026-11-21)'."""
    day = str(facts.get("promoted", ""))[:10]
    return f"{facts.get('name')} (run {facts.get('run')}, promoted {day})"
