"""Promoted runs: written once, never changed; the newest of a suite and a name is the baseline."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.orm import Session

from evalkit.errors import StoreError
from evalkit.records import Baseline, Score
from evalkit.statistics.answers import answers_digest
from evalkit.store import tables
from evalkit.store.blobs import gate_from_json, gate_json, pack_float64, units_digest
from evalkit.store.reading import read_scores
from evalkit.store.results import BaselineSummary
from evalkit.store.writing import require_run, write_score

_ScoreIds = Mapping[tuple[str, str], int]
"""By variant and metric."""

_NO_ANSWERS: Mapping[tuple[str, str], str] = {}
_IMPORTED = "imported:"
"""Begins the reuse key of a score that came from a file: no plan asks for such a key."""
_KEY_LENGTH = 64


def promote(session: Session, run_id: str, name: str, *, forced: bool) -> Baseline:
    """Makes a run the newest baseline of its suite under a name; the rows point to its scores.

    Raises:
        StoreError: there is no such run, or it has no scores.
    """
    run = require_run(session, run_id)
    shown = sa.select(tables.Variant.name, tables.VariantScore.metric, tables.VariantScore.score_id)
    shown = shown.join(tables.VariantScore, tables.VariantScore.variant_id == tables.Variant.id)
    ids = {
        (variant, metric): score_id
        for variant, metric, score_id in session.execute(
            shown.where(tables.Variant.run_id == run_id)
        )
    }
    if not ids:
        raise StoreError(f"run {run_id} has no scores: there is nothing to compare later runs with")
    row = tables.BaselineRow(
        suite=run.suite,
        name=name,
        run=run_id,
        promoted=datetime.now(UTC).isoformat(timespec="microseconds"),
        forced=forced,
        gates=run.gates,
        provenance=run.provenance,
    )
    return _read(session, _add(session, row, ids))


def import_baseline(session: Session, baseline: Baseline) -> bool:
    """Writes a baseline that comes from elsewhere as the newest of its suite and name.

    Returns:
        False where the newest one says the same already, and nothing was written.
    """
    newest = find_baseline(session, baseline.suite, baseline.name)
    if newest is not None and _content(newest) == _content(baseline):
        return False
    ids = {
        (variant, metric): _imported_score(session, baseline.run, metric, score)
        for variant, scores in baseline.scores.items()
        for metric, score in scores.items()
    }
    row = tables.BaselineRow(
        suite=baseline.suite,
        name=baseline.name,
        run=baseline.run,
        promoted=baseline.promoted,
        forced=baseline.forced,
        gates=[gate_json(gate) for gate in baseline.gates],
        provenance=baseline.provenance,
    )
    answers = {
        (variant, metric): answers_digest(score)
        for variant, scores in baseline.scores.items()
        for metric, score in scores.items()
    }
    _add(session, row, ids, answers)
    return True


def find_baseline(
    session: Session, suite: str, name: str, *, promoted: str | None = None
) -> Baseline | None:
    """The newest baseline of a suite and a name, or the one that was promoted at this time."""
    query = sa.select(tables.BaselineRow).filter_by(suite=suite, name=name)
    if promoted is not None:
        query = query.filter_by(promoted=promoted)
    row = session.scalar(query.order_by(tables.BaselineRow.id.desc()).limit(1))
    return None if row is None else _read(session, row)


def list_baselines(session: Session) -> tuple[BaselineSummary, ...]:
    """Every baseline there was, newest first."""
    variants: dict[int, set[str]] = defaultdict(set)
    scores: dict[int, int] = defaultdict(int)
    held = sa.select(tables.BaselineScore.baseline_id, tables.BaselineScore.variant)
    for baseline_id, variant in session.execute(held):
        variants[baseline_id].add(variant)
        scores[baseline_id] += 1
    columns = (tables.BaselineRow.id, tables.BaselineRow.suite, tables.BaselineRow.name)
    facts = (tables.BaselineRow.run, tables.BaselineRow.promoted, tables.BaselineRow.forced)
    found: list[BaselineSummary] = []
    seen: set[tuple[str, str]] = set()
    query = sa.select(*columns, *facts).order_by(tables.BaselineRow.id.desc())
    for row in session.execute(query):
        found.append(
            BaselineSummary(
                suite=row.suite,
                name=row.name,
                run=row.run,
                promoted=row.promoted,
                forced=row.forced,
                current=(row.suite, row.name) not in seen,
                variants=len(variants[row.id]),
                scores=scores[row.id],
            )
        )
        seen.add((row.suite, row.name))
    return tuple(found)


def _add(
    session: Session,
    row: tables.BaselineRow,
    ids: _ScoreIds,
    answers: Mapping[tuple[str, str], str] = _NO_ANSWERS,
) -> tables.BaselineRow:
    session.add(row)
    session.flush()
    session.add_all(
        tables.BaselineScore(
            baseline_id=row.id,
            variant=variant,
            metric=metric,
            score_id=score_id,
            answers=answers.get((variant, metric)) or None,
        )
        for (variant, metric), score_id in ids.items()
    )
    session.flush()
    return row


def _read(session: Session, row: tables.BaselineRow) -> Baseline:
    held = session.scalars(sa.select(tables.BaselineScore).filter_by(baseline_id=row.id))
    # Sorted here: every server has its own order of letters.
    links = sorted(held, key=lambda link: (link.variant, link.metric))
    found = read_scores(session, {link.score_id for link in links})
    scores: dict[str, dict[str, Score]] = defaultdict(dict)
    for link in links:
        score = found[link.score_id]
        scores[link.variant][link.metric] = replace(score, answers=link.answers or "")
    return Baseline(
        name=row.name,
        suite=row.suite,
        run=row.run,
        promoted=row.promoted,
        forced=row.forced,
        gates=tuple(gate_from_json(gate) for gate in row.gates),
        provenance=row.provenance,
        scores=dict(scores),
    )


def _imported_score(session: Session, run_id: str, metric: str, score: Score) -> int:
    """The id of the same score imported before, else of a new row."""
    digest = hashlib.sha256(json.dumps(_score_content(score), sort_keys=True).encode()).hexdigest()
    key = (_IMPORTED + digest)[:_KEY_LENGTH]
    known = sa.select(tables.ScoreRow.id).filter_by(reuse_key=key, computed_in=run_id).limit(1)
    return session.scalar(known) or write_score(session, run_id, key, metric, score)


def _content(baseline: Baseline) -> str:
    """All of a baseline as text, but what an exported file leaves out."""
    scores = {
        variant: {metric: _score_content(score) for metric, score in metrics.items()}
        for variant, metrics in baseline.scores.items()
    }
    gates = [gate_json(replace(gate, place="")) for gate in baseline.gates]
    identity = [baseline.suite, baseline.name, baseline.run, baseline.promoted, baseline.forced]
    return json.dumps([identity, gates, scores], sort_keys=True)


def _score_content(score: Score) -> list[object]:
    counts = pack_float64(score.counts)
    return [
        [score.metric, score.kind, repr(score.value), repr(score.stderr), score.unit],
        [score.higher_is_better, dict(score.comparison)],
        units_digest(score.unit_ids, score.clusters, counts),
        pack_float64(score.sums).hex(),
        answers_digest(score),
    ]
