"""Histories made up by hand, as the store gives them out. Nothing here was measured."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np

from evalkit.records import History, PastRun, PastScore, Promotion


class MadeUpRuns:
    """What `write_site` asks of a store."""

    def __init__(self, *histories):
        self.histories = {history.suite: history for history in histories}
        self.whole = []

    def list_suites(self):
        return tuple(self.histories)

    def load_history(self, suite):
        return self.histories[suite]

    def load_run(self, reference):
        self.whole.append(reference)
        found = (p.outline for h in self.histories.values() for p in h.runs)
        return next(run for run in found if run.id == reference)


def past_run(record, stamp=""):
    """A run as a history has it."""
    scores = {
        variant.name: {
            metric: PastScore(0, len(set(score.clusters)), str(sorted(score.comparison.items())))
            for metric, score in variant.scores.items()
        }
        for variant in record.variants
    }
    return PastRun(record, scores, stamp or f"stamp of {record.id}")


def history_of(records, *, suite="quickstart", baseline=None):
    """A history of these runs, oldest first."""
    promoted = [Promotion("main", baseline, "2026-11-01T00:00:00+00:00")] if baseline else []
    return History(
        suite, tuple(past_run(replace(r, suite=suite)) for r in records), tuple(promoted)
    )


def made_up_records(make_run, n, *, seed=11):
    """Runs over some weeks: values drift, packages are updated, data change once, one run fails.

    Args:
        make_run: makes one run of the quickstart's shape.
        n: how many.
        seed: of the drift.
    """
    generator = np.random.default_rng(seed)
    start = datetime.fromisoformat("2026-08-03T06:12:44+00:00")
    records = []
    for index in range(n):
        moment = start + timedelta(hours=19 * index)
        run = make_run(
            id=f"{moment:%Y%m%d-%H%M%S}-{index:04x}",
            started=moment.isoformat(),
            provenance=_provenance(index, n),
            exit_code=1 if index % 11 == 4 else 0,
        )
        if index % 11 == 4:
            first, *rest = run.verdicts
            run = replace(run, verdicts=(replace(first, verdict="REGRESSED", ok=False), *rest))
        variants = tuple(_moved(v, index, n, generator) for v in run.variants)
        records.append(replace(run, variants=variants))
    return records


def _moved(variant, index, n, generator):
    """A variant whose values moved a little; a better recipe from the middle on."""
    factor = math.exp(generator.normal(0, 0.008)) * (0.93 if index > n / 2 else 1.0)
    scores = {
        metric: replace(
            score,
            value=score.value * factor,
            comparison={**score.comparison, **({"data": "e0"} if index > 3 * n / 4 else {})},
        )
        if score.unit_ids
        else score
        for metric, score in variant.scores.items()
    }
    return replace(variant, scores=scores)


def _provenance(index, n):
    return {
        "git": {"revision": f"{index * 7919 + 1:08x}" * 5, "dirty": index % 6 == 5},
        "packages": {"torch": f"2.{13 + 2 * index // n}.0", "peft": f"0.21.{3 * index // n}"},
        "device": "cpu",
        "device_name": "Test CPU (made up)",
        "python": "3.11.2",
    }
