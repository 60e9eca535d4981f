"""Whole runs out of one store and into another, whatever kind of database each is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from evalkit.errors import EvalkitError, UsageError
from evalkit.records import JsonObject
from evalkit.store import tables
from evalkit.store.documents import (
    SCORE_PARTS,
    columns_of,
    row_of,
    run_document,
    score_document,
    scores_of,
)
from evalkit.store.reading import read_run, resolve_run
from evalkit.store.repeats import note_family
from evalkit.store.run_files import (
    AddDocument,
    Document,
    check_run_file,
    digest_of,
    new_run_file,
    read_run_file,
)
from evalkit.store.shared import add_once

if TYPE_CHECKING:
    from evalkit.store.store import Store

_SHARED: Final = (tables.UnitSet, tables.TaskTextSet)
"""What scores share, by its digest."""
KINDS: Final[dict[str, type[tables.Base]]] = {
    table.__tablename__: table
    for table in (*_SHARED, tables.ScoreRow, tables.SampleSet, tables.NoiseFloorRow, tables.Run)
}
"""What has documents of its own, by the name of its table."""


@dataclass(frozen=True)
class ImportedRuns:
    """What became of the runs of a file, by their ids."""

    added: tuple[str, ...]
    replaced: tuple[str, ...]
    known: tuple[str, ...]
    """They were there already, the same in every field."""


def export_runs(store: Store, references: Sequence[str] | None, path: Path) -> tuple[str, ...]:
    """Writes runs with all that belongs to them to a file, oldest first.

    Args:
        store: where they are.
        references: ids, starts of ids, or `latest`; None for all runs.
        path: the file.

    Returns:
        Their ids.

    Raises:
        UsageError: there is no such run, or something else is in the file's place.
        EvalkitError: the file cannot be written.
    """
    with store._reading() as session:
        every = sa.select(tables.Run.id).order_by(tables.Run.started, tables.Run.id)
        ids = list(session.scalars(every))
        if references is not None:
            wanted = {resolve_run(session, reference) for reference in references}
            ids = [run_id for run_id in ids if run_id in wanted]
        if not ids:
            raise UsageError("the store has no runs to export")
        with new_run_file(path, ids) as add:
            exporting = _Exporting(session, add)
            for run_id in ids:
                # What is damaged is found now, and not where the file is read one day.
                read_run(session, run_id)
                exporting.write(run_id)
                session.expunge_all()
    return tuple(ids)


def import_runs(store: Store, path: Path, *, replace: bool = False) -> ImportedRuns:
    """Reads a file's runs into a store, all or none of them.

    Args:
        store: where they go.
        path: what `export_runs` wrote.
        replace: take the file's runs in the place of those of the same id that differ.

    Raises:
        UsageError: the file is not whole or not ours, or a run is there already and differs.
    """
    check_run_file(path)
    importing = _Importing(path, replace)
    with store._writing() as session:
        documents = read_run_file(path)
        next(documents)
        for document in documents:
            with _fitting(path):
                importing.add(session, document)
    return ImportedRuns(
        tuple(importing.added), tuple(importing.replaced), tuple(importing.known_runs)
    )


# ------------------------------------------------------------------------- out


@dataclass(frozen=True)
class _Exporting:
    """What is in the file so far, by its table and its key in the store: the digest."""

    session: Session
    add: AddDocument
    written: dict[tuple[str, object], str] = field(default_factory=dict)

    def write(self, run_id: str) -> None:
        """Writes a run behind all that it refers to and that is not written yet."""
        scores = [score.id for score in scores_of(self.session, run_id)]
        digests = {score_id: self._score(score_id) for score_id in scores}
        in_run = sa.select(tables.Variant.sample_set_id).filter_by(run_id=run_id)
        texts = sa.select(tables.SampleSet).where(tables.SampleSet.id.in_(in_run))
        floors = sa.select(tables.NoiseFloorRow).filter_by(run=run_id)
        for samples in self.session.scalars(texts.order_by(tables.SampleSet.id)):
            self._once(samples, samples.id)
        for floor in self.session.scalars(floors.order_by(tables.NoiseFloorRow.id)):
            self._once(floor, floor.id)
        run = self.session.get_one(tables.Run, run_id)
        self.add(run.__tablename__, run_document(self.session, run, digests))

    def _score(self, score_id: int) -> str:
        score = self.session.get_one(tables.ScoreRow, score_id)
        key = (score.__tablename__, score_id)
        if key not in self.written:
            self._once(self.session.get_one(tables.UnitSet, score.units), score.units)
            links = sa.select(tables.TaskTexts).filter_by(score_id=score_id)
            for link in self.session.scalars(links):
                self._once(self.session.get_one(tables.TaskTextSet, link.digest), link.digest)
            self.written[key] = self.add(key[0], score_document(self.session, score))
        return self.written[key]

    def _once(self, row: Any, own: object) -> None:
        key = (row.__tablename__, own)
        if key not in self.written:
            self.written[key] = self.add(key[0], columns_of(row))


# ------------------------------------------------------------------------- in


@contextmanager
def _fitting(path: Path) -> Iterator[None]:
    """What is whole and yet does not fit together was written by something else."""
    try:
        yield
    except EvalkitError:
        raise
    except (ValueError, LookupError, TypeError) as error:
        what = f"its parts do not fit together ({type(error).__name__}: {error})"
        raise UsageError(f"{path}: {what}; nothing was imported") from error


@dataclass(frozen=True)
class _Importing:
    """What is in the store of one file's documents so far."""

    path: Path
    replace: bool
    ids: dict[str, int] = field(default_factory=dict)
    """Of scores and samples, by their documents' digests."""
    added: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    known_runs: list[str] = field(default_factory=list)

    def add(self, session: Session, document: Document) -> None:
        """Writes a document's rows, unless the same are there."""
        table = KINDS[document.kind]
        if table in _SHARED:
            add_once(session, row_of(table, document.body))
        elif table is tables.Run:
            self._add_run(session, document)
        elif table is tables.NoiseFloorRow:
            _add_floor(session, document.body)
        else:
            known = self._find(session, table, document)
            self.ids[document.digest] = known or _add_keyed(session, table, document.body)

    def _find(self, session: Session, table: type[Any], document: Document) -> int | None:
        """The id of the same score, or the same samples, where the store has them."""
        keys = {key: document.body[key] for key in ("reuse_key", "computed_in")}
        for row in session.scalars(sa.select(table).filter_by(**keys).order_by(table.id)):
            if digest_of(_body(session, row)) == document.digest:
                return int(row.id)
        return None

    def _add_run(self, session: Session, document: Document) -> None:
        run_id = document.body["id"]
        there = session.get(tables.Run, run_id)
        if there is None:
            self.added.append(run_id)
        elif digest_of(_whole_run(session, there)) == document.digest:
            self.known_runs.append(run_id)
            return
        elif self.replace:
            session.execute(sa.delete(tables.Run).filter_by(id=run_id))
            session.expire_all()
            self.replaced.append(run_id)
        else:
            raise UsageError(
                f"{self.path}: run {run_id} is in the store already and differs (it was judged "
                "again, or went on, in one of the two places); nothing was imported. --replace "
                "takes the file's"
            )
        self._write_run(session, run_id, document.body)

    def _write_run(self, session: Session, run_id: str, body: Mapping[str, Any]) -> None:
        lists = ("jobs", "variants", "verdicts")
        own = {key: value for key, value in body.items() if key not in ("id", *lists)}
        session.add(row_of(tables.Run, own, id=run_id))
        session.flush()
        jobs = [row_of(tables.Job, job, run_id=run_id) for job in body["jobs"]]
        for job in jobs:
            note_family(job)
        for row in (
            *jobs,
            *(row_of(tables.VerdictRow, v, run_id=run_id) for v in body["verdicts"]),
        ):
            session.add(row)
            # One by one: the order of ids is the order in which they are told.
            session.flush()
        for variant in body["variants"]:
            self._write_variant(session, run_id, variant, [job.id for job in jobs])

    def _write_variant(
        self, session: Session, run_id: str, body: Mapping[str, Any], jobs: Sequence[int]
    ) -> None:
        links = ("scores", "repeats", "job", "samples")
        own = {key: value for key, value in body.items() if key not in links}
        row = row_of(
            tables.Variant, own, run_id=run_id,
            job_id=jobs[body["job"]] if "job" in body else None,
            sample_set_id=self.ids[body["samples"]] if "samples" in body else None,
        )  # fmt: skip
        session.add(row)
        session.flush()
        session.add_all(
            tables.VariantScore(variant_id=row.id, metric=metric, score_id=self.ids[digest])
            for metric, digest in body["scores"].items()
        )
        for repeat in body["repeats"]:
            own = {key: value for key, value in repeat.items() if key != "score"}
            score_id = self.ids[repeat["score"]]
            session.add(row_of(tables.RepeatRow, own, variant_id=row.id, score_id=score_id))
        session.flush()


def _body(session: Session, row: Any) -> JsonObject:
    return score_document(session, row) if isinstance(row, tables.ScoreRow) else columns_of(row)


def _whole_run(session: Session, run: tables.Run) -> JsonObject:
    scores = scores_of(session, run.id)
    digests = {score.id: digest_of(score_document(session, score)) for score in scores}
    return run_document(session, run, digests)


def _add_keyed(session: Session, table: type[Any], body: Mapping[str, Any]) -> int:
    parts = body.get("parts", {}) if table is tables.ScoreRow else {}
    row = row_of(table, {key: value for key, value in body.items() if key != "parts"})
    session.add(row)
    session.flush()
    known = {part.__tablename__: part for part in SCORE_PARTS}
    session.add_all(
        row_of(known[name], part, score_id=row.id) for name, rows in parts.items() for part in rows
    )
    session.flush()
    return int(row.id)


def _add_floor(session: Session, body: Mapping[str, Any]) -> None:
    """Writes a noise floor where its key has none: what was measured here stays the newest."""
    known = sa.select(tables.NoiseFloorRow.id).filter_by(key=body["key"]).limit(1)
    if session.scalar(known) is None:
        session.add(row_of(tables.NoiseFloorRow, body))
        session.flush()
