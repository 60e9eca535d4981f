"""What is different on a server: its errors, its locks, its order of letters, its connections."""

from __future__ import annotations

import math
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from postgres import PASSWORD, Server
from stored_runs import GATES, TRAINING, VERDICTS, make_score, result, start

from evalkit.cli import run_command_line
from evalkit.errors import StoreError
from evalkit.records import Verdict
from evalkit.store import FAMILY, SEED, Store
from evalkit.store.engines import display
from evalkit.store.opening import database_url
from evalkit.store.tables import VERSION_TABLE


@pytest.fixture
def database(postgres: Server) -> str:
    """The name of a database with nothing in it."""
    return postgres.new_database()


def refused(place: str, *, create: bool = True) -> str:
    """What is said where a store cannot be opened; never the password."""
    with pytest.raises(StoreError) as caught:
        Store.open(place, create=create)
    told = str(caught.value)
    assert PASSWORD not in told
    assert "hunter2" not in told
    return told


def test_an_empty_database_is_no_store_for_who_reads(postgres: Server, database: str) -> None:
    place = postgres.url(database)
    assert "holds no store yet; `evalkit run SUITE` makes one" in refused(place, create=False)
    with Store.open(place) as store:
        run_id = start(store)
        assert PASSWORD not in store.place
        assert "hunter2" not in store.place
    plain = place.replace("postgresql+psycopg:", "postgresql:")
    with Store.open(plain, create=False) as store:
        assert store.load_run().id == run_id


def test_a_schema_of_its_own_beside_another_program(postgres: Server, database: str) -> None:
    postgres.execute("CREATE TABLE bills (n int)", "CREATE SCHEMA evals", database=database)
    place = postgres.url(database)
    told = refused(place)
    assert "not evalkit's (it holds bills)" in told
    assert "a schema of its own: ...?options=-csearch_path%3DSCHEMA" in told
    with Store.open(f"{place}&options=-csearch_path%3Devals") as store:
        run_id = start(store)
    with Store.open(f"{place}&options=-csearch_path%3Devals", create=False) as store:
        assert store.load_run().id == run_id
    assert "bills" in refused(place), "nothing was made beside it"


def test_a_store_of_a_newer_evalkit(postgres: Server, database: str) -> None:
    place = postgres.url(database)
    Store.open(place).close()
    postgres.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999'", database=database)
    assert "written by a newer evalkit (schema 9999;" in refused(place)


def test_what_keeps_a_server_away(postgres: Server, database: str, tmp_path: Path) -> None:
    assert f'database "{database}x" does not exist' in refused(postgres.url(f"{database}x"))
    wrong = refused(postgres.url(database, password="hunter2:wrong"))
    assert "password authentication failed" in wrong
    assert "the URL, the user and the password right? Or name another place with --db" in wrong
    nowhere = refused(f"postgresql+psycopg://me:hunter2@/runs?host={tmp_path}")
    assert "Is the server there" in nowhere
    assert "Is the server there" in refused("postgresql+psycopg://me:hunter2@127.0.0.1:1/runs")
    for unreadable in ("postgresql://me:hunter2@host:port/x", "postgresql://me:hunter2@[::1/x"):
        assert "allowed: a path, or a URL" in refused(unreadable)


def test_a_user_who_may_only_read_reads(postgres: Server, database: str) -> None:
    with Store.open(postgres.url(database)) as store:
        run_id = start(store)
    postgres.execute(
        "DROP ROLE IF EXISTS reader",
        "CREATE ROLE reader LOGIN PASSWORD 'hunter2'",
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader",
        database=database,
    )
    with Store.open(postgres.url(database, user="reader", password="hunter2")) as store:
        assert store.load_run().id == run_id
        with pytest.raises(StoreError, match=r"permission denied .*docs/store\.md says which"):
            start(store)
    stranger = postgres.url(postgres.new_database(), user="reader", password="hunter2")
    assert "permission denied for schema public. docs/store.md" in refused(stranger)


def test_a_connection_that_was_dropped_while_a_job_ran(postgres: Server, database: str) -> None:
    with Store.open(postgres.url(database)) as store:
        run_id = start(store)
        postgres.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"
        )
        store.record_variant(run_id, result())
        with pytest.raises(StoreError, match=r"ended the connection\. What was recorded before is"):
            _drop_within(store, postgres, database)
        assert len(store.load_run(run_id).variants) == 1


def _drop_within(store: Store, server: Server, database: str) -> None:
    with store._writing() as session:
        (own,) = session.execute(sa.text("SELECT pg_backend_pid()")).one()
        server.execute(f"SELECT pg_terminate_backend({own})", database=database)
        session.execute(sa.text("SELECT 1"))


def test_writers_wait_for_each_other_and_not_for_ever(
    postgres: Server, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = postgres.url(database)
    with Store.open(place) as store, Store.open(place) as other:
        run_id = start(store)
        monkeypatch.setattr("evalkit.store.engines.BUSY_SECONDS", 0.05)
        with other._writing() as session:
            session.execute(sa.text("SELECT 1"))
            assert store.load_run().id == run_id, "readers do not wait for writers"
            with pytest.raises(StoreError, match="another process kept the database locked"):
                start(store)
        start(store)


def test_a_server_that_crashes_keeps_what_was_recorded(postgres: Server, database: str) -> None:
    with Store.open(postgres.url(database)) as store:
        run_id = start(store)
        postgres.execute("CHECKPOINT", database=database)
        postgres.halt()
        try:
            with pytest.raises(StoreError, match="Is the server there"):
                store.record_variant(run_id, result())
        finally:
            postgres.start()
        store.record_variant(run_id, result())
        assert [variant.name for variant in store.load_run(run_id).variants] == ["nf4"]


def test_letters_are_in_the_same_order_everywhere(place: str) -> None:
    """A dictionary puts 'Bits' between 'acc' and 'perplexity', SQLite and Python before both."""
    metrics = ["perplexity", "acc", "Bits", "perplexity/b"]
    with Store.open(place) as store:
        for suite in ("b", "B", "a"):
            run_id = start(store, suite=suite)
        scores = {name: (name, make_score(name)) for name in metrics}
        store.record_variant(run_id, result(scores=scores))
        assert list(store.load_run(run_id).variants[0].scores) == sorted(metrics)
        (past,) = store.load_history("a").runs
        assert list(past.outline.variants[0].scores) == sorted(metrics)
        assert list(store.promote(run_id, "main").scores["nf4"]) == sorted(metrics)


def test_numbers_that_are_not_finite_are_stored_as_json_has_them(place: str) -> None:
    open_end = Verdict(GATES[3], "PASS", True, low=-math.inf, high=math.inf, effect=math.nan)
    with Store.open(place) as store:
        run_id = start(store)
        store.record_verdicts(run_id, [open_end])
        (found,) = store.load_run(run_id).verdicts
        assert (found.low, found.high) == (-math.inf, math.inf)
        assert math.isnan(found.effect or 0.0)
        (past,) = store.load_history("quickstart").runs
        assert repr(past.outline.verdicts[0]) == repr(found)
        query = sa.text("SELECT CAST(details AS TEXT) FROM verdicts")
        with store._reading() as session:
            text = session.scalar(query)
    assert '"high": {"$numberDouble": "Infinity"}' in str(text)


def test_a_store_of_before_with_a_bare_infinity_is_read(tmp_path: Path) -> None:
    file = tmp_path / "runs.db"
    with Store.open(str(file)) as store:
        run_id = start(store)
        store.record_verdicts(run_id, [replace(VERDICTS[0], low=-1.0)])
    with sqlite3.connect(file) as connection:
        changed = connection.execute(
            "UPDATE verdicts SET details = replace(details, '\"low\": -1.0', '\"low\": -Infinity')"
        )
        assert changed.rowcount == 1
    with Store.open(str(file)) as store:
        assert store.load_run(run_id).verdicts == (replace(VERDICTS[0], low=-math.inf),)
        (past,) = store.load_history("quickstart").runs
        assert past.outline.verdicts[0].low == -math.inf


def test_texts_that_no_server_takes_are_escaped(place: str) -> None:
    with Store.open(place) as store:
        run_id = start(store, place="a\0b\udcff.yaml")
        store.record_variant(run_id, result(job=replace(result().job, error="\0 \ud800")))
        found = store.load_run(run_id)
    assert found.place == "a\\x00b\\udcff.yaml"
    assert found.variants[0].job is not None
    assert found.variants[0].job.error == "\\x00 \\ud800"


def test_a_draw_is_found_beside_facts_with_a_nul(place: str) -> None:
    with Store.open(place) as store:
        run_id = start(store)
        odd = replace(TRAINING, name="train odd", facts={"notes": ["\0 \ud800"]})
        store.record_training(run_id, odd, reuse_key="odd", content_digest="x")
        for family in ("family", "family-2", 'fam"ily'):
            facts = {FAMILY: family, SEED: 3}
            job = replace(TRAINING, name=f"train {family}", facts=facts)
            store.record_training(run_id, job, reuse_key=family, content_digest=family)
        for family in ("family", 'fam"ily'):
            (draw,) = store.find_draws(family)
            assert (draw.seed, draw.content_digest) == (3, family)


def test_the_command_line_never_shows_a_password(
    postgres: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in (
        postgres.url("nowhere"),
        "postgresql://me:hunter2@host:port/x",
        "postgresql://me:hunter2 @/@127.0.0.1:1/x",
        "mysql://me:hunter2@host/x",
    ):
        for debug in ([], ["--debug"]):
            assert run_command_line([*debug, "runs", "--db", place]) == 3
            told = capsys.readouterr()
            assert "hunter2" not in told.out + told.err
    assert display(database_url(postgres.url("x"))).startswith("postgresql+psycopg://***:***@/x")
