"""The store: what a run writes while it goes, and what reports and later runs read.

Only the driver writes, one transaction a job, so that a run that dies leaves whole results.
Readers and other runs may use the same database at the same time.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self

import sqlalchemy as sa
from sqlalchemy.orm import Session

from evalkit.records import (
    Baseline,
    Gate,
    JobRecord,
    JsonObject,
    NoiseFloor,
    VariantRecord,
    Verdict,
)
from evalkit.store import baselines, repeats, tables, writing
from evalkit.store.blobs import gate_json, storable_text
from evalkit.store.engines import for_writing
from evalkit.store.failures import explained
from evalkit.store.opening import database_url, open_engine
from evalkit.store.reader import StoreReader
from evalkit.store.results import RepeatResult, VariantResult

DEFAULT_STORE: Final = ".evalkit/evalkit.db"
"""Where runs go when the command line names no database, relative to the working directory."""


class Store(StoreReader):
    """An open database of runs. Made by `Store.open`; a context manager that closes it.

    Every method raises `StoreError` where the database fails, naming it and what to do.
    """

    def __init__(self, engine: sa.Engine) -> None:
        super().__init__(engine)
        self._writer = for_writing(engine)
        weakref.finalize(self, engine.dispose)  # at exit too: else SQLite's log stays beside it

    @classmethod
    def open(cls, place: str | None = None, *, create: bool = True) -> Self:
        """Opens a database, and makes it or brings its schema up to date where needed.

        Args:
            place: a path or a database URL; `DEFAULT_STORE` where it is None.
            create: make a SQLite file that does not exist; otherwise that is an error.

        Raises:
            StoreError: it cannot be opened, is no store of evalkit, or is newer than this code.
            MissingPackageError: the database's driver is not installed.
        """
        return cls(open_engine(database_url(place or DEFAULT_STORE), create=create))

    def close(self) -> None:
        """Closes every connection."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # ------------------------------------------------------------------------- writing

    def start_run(
        self,
        *,
        suite: str,
        place: str,
        suite_text: str,
        suite_json: JsonObject,
        arguments: JsonObject,
        provenance: JsonObject,
        gates: Sequence[Gate] = (),
        variants: Sequence[VariantRecord] = (),
    ) -> str:
        """Begins a run.

        Args:
            suite: the suite's name.
            place: its path as given.
            suite_text: the YAML as read, every layer of it.
            suite_json: the resolved suite.
            arguments: those of the command line, given and defaulted.
            provenance: revisions, versions, devices, seeds.
            gates: in the suite's order.
            variants: what is going to be scored, in the suite's order. Only their names, paths,
                parents and edges are written; a run that stops early still lists them.

        Returns:
            The run's id, like `20261121-224455-a3f1` (UTC); ids sort by time.
        """
        run = tables.Run(
            suite=suite,
            place=storable_text(place),
            suite_text=suite_text,
            suite_json=suite_json,
            arguments=arguments,
            provenance=provenance,
            gates=[gate_json(gate) for gate in gates],
        )
        with self._writing() as session:
            return writing.write_run(session, run, variants)

    def record_training(
        self, run_id: str, job: JobRecord, *, reuse_key: str, content_digest: str | None = None
    ) -> None:
        """Writes a training job at once, over an earlier attempt of the same name.

        Args:
            run_id: from `start_run`.
            job: what became of it.
            reuse_key: key of its recipe.
            content_digest: of the adapter that it wrote, or that was reused.
        """
        with self._writing() as session:
            writing.require_run(session, run_id)
            repeats.write_training(session, run_id, job, reuse_key, content_digest)

    def record_job(self, run_id: str, job: JobRecord) -> None:
        """Writes a job that leaves nothing behind but what it says of itself."""
        with self._writing() as session:
            writing.require_run(session, run_id)
            writing.write_job(session, run_id, job)

    def record_variant(self, run_id: str, result: VariantResult) -> None:
        """Writes a scoring job and all that it measured, at once and in one transaction.

        A second result of the same name takes the first one's place, as when a run is resumed.
        """
        with self._writing() as session:
            writing.require_run(session, run_id)
            writing.write_variant(session, run_id, result)

    def record_repeat(self, run_id: str, result: RepeatResult) -> None:
        """Writes one more measurement of a variant that is recorded, in one transaction."""
        with self._writing() as session:
            repeats.write_repeat(session, run_id, result)

    def record_noise_floor(self, key: str, floor: NoiseFloor) -> None:
        """Writes what scoring twice moved; the newest floor of a key counts."""
        with self._writing() as session:
            repeats.write_noise_floor(session, key, floor)

    def record_verdicts(self, run_id: str, verdicts: Sequence[Verdict]) -> None:
        """Writes what the gates came to, in place of an earlier judgement of this run."""
        with self._writing() as session:
            writing.require_run(session, run_id)
            writing.write_verdicts(session, run_id, verdicts)

    def note_baseline(self, run_id: str, facts: JsonObject) -> None:
        """Writes into a run's provenance which baseline its gates were judged by."""
        with self._writing() as session:
            run = writing.require_run(session, run_id)
            run.provenance = {**run.provenance, "baseline": facts}

    def promote(self, run_id: str, name: str, *, forced: bool = False) -> Baseline:
        """Makes a run the baseline of its suite; earlier ones stay as its history."""
        with self._writing() as session:
            return baselines.promote(session, run_id, name, forced=forced)

    def import_baseline(self, baseline: Baseline) -> bool:
        """Makes a baseline from elsewhere the newest; False where it is that already."""
        with self._writing() as session:
            return baselines.import_baseline(session, baseline)

    def finish_run(self, run_id: str, *, seconds: float, exit_code: int) -> None:
        """Ends a run."""
        with self._writing() as session:
            run = writing.require_run(session, run_id)
            run.seconds = seconds
            run.exit_code = exit_code

    @contextmanager
    def _writing(self) -> Iterator[Session]:
        with explained(self.place), Session(self._writer) as session, session.begin():
            yield session
