"""Which baseline a run is judged by: the store's newest, a named one, or a file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evalkit.baselines.file import read_baseline
from evalkit.baselines.promoting import (
    DEFAULT_BASELINE,
    baseline_facts,
    check_baseline_name,
    failed_gates,
    promote_command,
)
from evalkit.errors import UsageError
from evalkit.records import Baseline, Gate, JsonObject, RunRecord
from evalkit.store import Store

__all__ = ["ChosenBaseline", "baseline_of_run", "bootstrap_baseline", "choose_baseline"]


@dataclass(frozen=True)
class ChosenBaseline:
    """The baseline that gates are judged by, or the name that a first one would get."""

    name: str = DEFAULT_BASELINE
    baseline: Baseline | None = None
    place: str = ""
    """Its file; empty where it is the store's own."""
    digest: str = ""
    """Of the file's bytes."""

    def facts(self, gates: Sequence[Gate], provenance: Mapping[str, Any]) -> JsonObject | None:
        """What the run's provenance keeps of it; None where there is none."""
        if self.baseline is None:
            return None
        facts = baseline_facts(self.baseline, gates, dict(provenance), place=self.place)
        return {**facts, "digest": self.digest} if self.digest else facts

    def promote_command(self, run_id: str, database: str | None) -> str:
        """The command that promotes a run in its place."""
        return promote_command(run_id, name=self.name, database=database)


def choose_baseline(store: Store, suite: str, wanted: str | None) -> ChosenBaseline:
    """The baseline that the command line asks for.

    Args:
        store: where baselines are promoted.
        suite: the suite's name.
        wanted: a baseline's name or its file; None for the suite's newest `main`, if any.

    Raises:
        UsageError: the file is no baseline, or the suite has baselines and none of this name.
    """
    if wanted is not None and _is_file(wanted):
        path = Path(wanted)
        baseline = read_baseline(path)
        return ChosenBaseline(baseline.name, baseline, wanted, _digest(path))
    name = DEFAULT_BASELINE if wanted is None else check_baseline_name(wanted)
    found = store.find_baseline(suite, name)
    if found is None and wanted is not None:
        others = {known.name for known in store.list_baselines() if known.suite == suite}
        if others:
            listed = ", ".join(sorted(others))
            raise UsageError(f"suite {suite} has no baseline {name!r} (allowed: {listed}, a file)")
    return ChosenBaseline(name, found)


def baseline_of_run(store: Store, record: RunRecord, wanted: str | None = None) -> ChosenBaseline:
    """The baseline that a stored run was judged by, so that judging again says the same.

    A run that found none takes what was promoted since.

    Raises:
        UsageError: it is not there any more, or not the same; another one must be named.
    """
    used = record.provenance.get("baseline")
    if wanted is not None or not isinstance(used, Mapping):
        return choose_baseline(store, record.suite, wanted)
    what = f"baseline {used['name']!r} (run {used['run']}) that run {record.id} was judged by"
    if used["place"]:
        path = Path(used["place"])
        if not path.is_file() or _digest(path) != used["digest"]:
            raise UsageError(f"{path} is not the {what}; name one with --baseline")
        return choose_baseline(store, record.suite, str(path))
    found = store.find_baseline(used["suite"], used["name"], promoted=used["promoted"])
    if found is None:
        raise UsageError(f"{store.place} has no {what}; name one with --baseline")
    return ChosenBaseline(found.name, found)


def bootstrap_baseline(
    store: Store, record: RunRecord, chosen: ChosenBaseline, code: int
) -> ChosenBaseline:
    """The run as the first baseline of its suite, if it may be; else what was chosen.

    It may where none was ever promoted under the name, no job failed, and every gate is ok but for
    those that look for a baseline.

    Args:
        store: where it is promoted.
        record: the run, with its verdicts.
        chosen: what it was judged by.
        code: the exit code that it would end with.
    """
    if chosen.baseline is not None or code not in (0, 1) or failed_gates(record):
        return chosen
    return replace(chosen, baseline=store.promote(record.id, chosen.name))


def _is_file(wanted: str) -> bool:
    return wanted.lower().endswith(".json") or "/" in wanted or Path(wanted).is_file()


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
