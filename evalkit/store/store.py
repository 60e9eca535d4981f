"""The store: what a run writes while it goes, and what reports and later runs read.

Only the driver writes, one transaction a job, so that a run that dies leaves whole results.
Readers and other runs may use the same database at the same time.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self

import sqlalchemy as sa
from sqlalchemy.orm import Session

from evalkit.errors import StoreError
from evalkit.records import (
    Baseline,
    Gate,
    History,
    JobRecord,
    JsonObject,
    NoiseFloor,
    RunRecord,
    Score,
    VariantRecord,
    Verdict,
)
from evalkit.store import baselines, finding, history, reading, repeats, tables, writing
from evalkit.store.blobs import gate_json, storable_text
from evalkit.store.engines import display, for_reading, for_writing
from evalkit.store.failures import explained, read_back
from evalkit.store.opening import database_url, open_engine
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

DEFAULT_STORE: Final = ".evalkit/evalkit.db"
"""Where runs go when the command line names no database, relative to the working directory."""


class Store:
    """An open database of runs. Made by `Store.open`; a context manager that closes it.

    Every method raises `StoreError` where the database fails, naming it and what to do.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self.place = display(engine.url)
        """The database's path, or its URL with the password masked."""
        self._engine = for_reading(engine)
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

    # ------------------------------------------------------------------------- reading

    def find_score(self, reuse_key: str) -> StoredScore | None:
        """The newest score that was computed under this key, or None."""
        with self._reading() as session:
            return finding.find_score(session, reuse_key)

    def find_scores(self, reuse_keys: Collection[str]) -> dict[str, dict[str, StoredScore]]:
        """By key, the newest score of each metric that was computed under it."""
        with self._reading() as session:
            return finding.find_scores(session, reuse_keys)

    def find_samples(self, reuse_key: str) -> StoredSamples | None:
        """The newest texts that were generated under this key, or None."""
        with self._reading() as session:
            return finding.find_samples(session, reuse_key)

    def find_training(self, reuse_key: str) -> StoredTraining | None:
        """The newest training that was done under this key, or None."""
        with self._reading() as session:
            return finding.find_training(session, reuse_key)

    def find_draws(self, family: str) -> tuple[StoredDraw, ...]:
        """What was trained by one recipe with any seed, by the seed."""
        with self._reading() as session:
            return repeats.find_draws(session, family)

    def find_noise_floor(self, key: str) -> NoiseFloor | None:
        """The newest floor that was measured under this key, or None."""
        with self._reading() as session:
            return repeats.find_noise_floor(session, key)

    def find_facts(self, run_id: str, score_ids: Sequence[int]) -> JsonObject:
        """What the scoring job of these scores recorded, as that run shows it."""
        with self._reading() as session:
            return finding.find_facts(session, run_id, score_ids)

    def load_score(self, score_id: int) -> Score:
        """A whole score with its per-unit values, by its `StoredScore.id`."""
        with self._reading() as session:
            scores = reading.read_scores(session, [score_id])
        if score_id not in scores:
            raise StoreError(f"{self.place}: no score {score_id}")
        return scores[score_id]

    def load_run(self, reference: str = reading.LATEST) -> RunRecord:
        """A whole run.

        Args:
            reference: an id, the start of one, or `latest`.

        Raises:
            UsageError: no run, or several, are meant by it.
        """
        with self._reading() as session:
            return reading.read_run(session, reading.resolve_run(session, reference))

    def list_runs(self, limit: int = 20) -> tuple[RunSummary, ...]:
        """The newest runs, newest first."""
        with self._reading() as session:
            return reading.list_runs(session, limit)

    def list_suites(self) -> tuple[str, ...]:
        """The names of all suites that were ever run, by their first run."""
        with self._reading() as session:
            return history.list_suites(session)

    def load_history(self, suite: str) -> History:
        """Every run of a suite without what lies behind its values; empty where there is none."""
        with self._reading() as session:
            return history.read_history(session, suite)

    def find_baseline(
        self, suite: str, name: str, *, promoted: str | None = None
    ) -> Baseline | None:
        """The newest baseline of a suite and a name, or the one promoted at this time."""
        with self._reading() as session:
            return baselines.find_baseline(session, suite, name, promoted=promoted)

    def list_baselines(self) -> tuple[BaselineSummary, ...]:
        """Every baseline there was, newest first."""
        with self._reading() as session:
            return baselines.list_baselines(session)

    # ------------------------------------------------------------------------- transactions

    @contextmanager
    def _writing(self) -> Iterator[Session]:
        with explained(self.place), Session(self._writer) as session, session.begin():
            yield session

    @contextmanager
    def _reading(self) -> Iterator[Session]:
        place = self.place
        with explained(place), read_back(place), Session(self._engine) as session, session.begin():
            yield session
