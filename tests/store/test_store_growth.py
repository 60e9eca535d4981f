"""What is asked of a store costs no more when it holds many runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import sqlalchemy as sa

from evalkit.records import Budget, Gate, JobRecord, Score, VariantRecord, Verdict
from evalkit.store import FAMILY, SEED, Store, VariantResult, tables

GATE = Gate("perplexity", "nf4", against="fp16", max_increase=Budget(0.1, "relative"))


EVERY = 5
MORE = 60


def score() -> Score:
    names = ("a", "b")
    return Score(
        "perplexity", "perplexity", 9.0, None, "ppl/token", False, names, names,
        np.ones(2), np.ones(2),
    )  # fmt: skip


def add_run(store: Store) -> str:
    """A run that trains one adapter and scores two variants, or takes all that is stored of them.

    As a rerun does: of all the runs here, the first alone computes.
    """
    variants = [VariantRecord(name, (), None, "", None, {}) for name in ("fp16", "nf4")]
    run = store.start_run(
        suite="s", place="s.yaml", suite_text="", suite_json={}, arguments={}, provenance={},
        gates=[GATE], variants=variants,
    )  # fmt: skip
    trained = store.find_training("recipe") is not None
    job = JobRecord("train a", "train", "reused" if trained else "done", 1.0)
    job = JobRecord(**{**vars(job), "facts": {FAMILY: "family", SEED: 0}})
    store.record_training(run, job, reuse_key="recipe", content_digest="adapter")
    for variant in variants:
        known = store.find_scores([variant.name])[variant.name]
        status = "reused" if known else "done"
        result = VariantResult(
            variant.name, (), None, "", JobRecord(f"score {variant.name}", "score", status, 1.0),
            scores={} if known else {"perplexity": (variant.name, score())},
            reused={metric: found.id for metric, found in known.items()},
        )  # fmt: skip
        store.record_variant(run, result)
    store.find_samples("fp16")
    store.find_noise_floor("key")
    store.find_draws("family")
    store.record_verdicts(run, [Verdict(GATE, "PASS", True, effect=0.0, low=0.0, high=0.0)])
    store.finish_run(run, seconds=1.0, exit_code=0)
    return run


@pytest.fixture
def store(tmp_path) -> Iterator[Store]:
    with Store.open(str(tmp_path / "runs.db")) as opened:
        add_run(opened)
        yield opened


@contextmanager
def statements(store: Store) -> Iterator[list[tuple[str, object]]]:
    """What is sent to the database meanwhile, with its parameters."""
    sent: list[tuple[str, object]] = []

    def listen(_connection, _cursor, statement, parameters, _context, many):
        if not statement.startswith(("BEGIN", "PRAGMA", "EXPLAIN")):
            sent.append((statement, parameters[0] if many else parameters))

    sa.event.listen(store._engine, "before_cursor_execute", listen)
    try:
        yield sent
    finally:
        sa.event.remove(store._engine, "before_cursor_execute", listen)


@contextmanager
def steps(store: Store) -> Iterator[list[int]]:
    """How many instructions SQLite's virtual machine runs meanwhile."""
    counted = [0]

    def count() -> int:
        counted[0] += EVERY
        return 0

    # One connection is in the pool, and is used again.
    with store._engine.connect() as connection:
        connection.connection.driver_connection.set_progress_handler(count, EVERY)
    try:
        yield counted
    finally:
        with store._engine.connect() as connection:
            connection.connection.driver_connection.set_progress_handler(None, 0)


INDEX = ["USING", "INDEX"]
"""Of the newest runs: read in an index's order, as far as the first of them."""
CALLS: dict[str, Callable[[Store], object]] = {
    "a rerun": add_run,
    "load the newest run": lambda store: store.load_run(),
    "load a run": lambda store: store.load_run(store.list_runs(1)[0].id),
    "find a baseline": lambda store: store.find_baseline("s", "main"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_no_table_is_read_from_end_to_end(store: Store, call: Callable[[Store], object]) -> None:
    with statements(store) as sent:
        call(store)
    assert sent
    with store._engine.connect() as connection:
        for statement, parameters in sent:
            if statement.startswith("INSERT"):
                continue
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            words = [row.detail.split() for row in plan]
            read = {each[1] for each in words if each[0] == "SCAN" and each[2:4] != INDEX}
            assert not read & tables.Base.metadata.tables.keys(), statement


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_work_hardly_grows_with_the_runs(store: Store, call: Callable[[Store], object]) -> None:
    def work() -> tuple[int, int]:
        with statements(store) as sent, steps(store) as counted:
            call(store)
        return len(sent), counted[0]

    few = [work() for _ in range(3)]
    for _ in range(MORE):
        add_run(store)
    many = work()
    assert many[0] == few[-1][0]
    # An entry of an index for each run that trained by one recipe: ten instructions.
    assert many[1] < few[-1][1] + 15 * MORE, (few, many)
