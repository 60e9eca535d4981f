"""What reports and later runs read of a store."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy.orm import Session

from evalkit.errors import StoreError
from evalkit.records import Baseline, History, JsonObject, NoiseFloor, RunRecord, Score
from evalkit.store import baselines, finding, history, reading, repeats
from evalkit.store.engines import display, for_reading
from evalkit.store.failures import explained, read_back
from evalkit.store.results import (
    BaselineSummary,
    RunSummary,
    StoredDraw,
    StoredSamples,
    StoredScore,
    StoredTraining,
)


class StoreReader:
    """The reading half of a `Store`; other runs may write the same database at the same time.

    Every method raises `StoreError` where the database fails, naming it and what to do.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self.place = display(engine.url)
        """The database's path, or its URL with the password masked."""
        self._engine = for_reading(engine)

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

    @contextmanager
    def _reading(self) -> Iterator[Session]:
        place = self.place
        with explained(place), read_back(place), Session(self._engine) as session, session.begin():
            yield session
