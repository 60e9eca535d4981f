"""The migrations make what the models say, whole or not at all, and lose no rows."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from evalkit.errors import StoreError
from evalkit.records import JobRecord
from evalkit.store import Store, VariantResult
from evalkit.store.engines import make_engine
from evalkit.store.migrating import MIGRATIONS, draft_migration, migration_config, upgrade
from evalkit.store.opening import database_url
from evalkit.store.tables import REVISIONS, VERSION_TABLE, Base

NEXT = '''
"""A next migration, for tests."""
import sqlalchemy as sa
from alembic import op

revision = "next"
down_revision = "{head}"


def upgrade() -> None:
    with op.batch_alter_table("runs", recreate="always") as batch:
        batch.add_column(sa.Column("colour", sa.String(), nullable=True))
    {more}
'''


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A store with one run that has children in every table below it."""
    file = tmp_path / "runs.db"
    with Store.open(str(file)) as store:
        run_id = store.start_run(
            suite="s", place="", suite_text="", suite_json={}, arguments={}, provenance={}
        )
        job = JobRecord("score nf4", "score", "done", 0.0)
        store.record_variant(run_id, VariantResult("nf4", (), None, "", job))
    return file


def folder_with_next(tmp_path: Path, more: str = "") -> Path:
    folder = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    script = NEXT.format(head=REVISIONS[-1], more=more)
    (folder / "versions" / "next.py").write_text(script.lstrip())
    return folder


def old_store(tmp_path: Path, *, before: str) -> Path:
    """An empty store as it was before a revision."""
    folder = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    for script in (folder / "versions").iterdir():
        if script.name >= before:
            script.unlink()
    place = tmp_path / "old.db"
    upgrade(database_url(str(place)), folder=folder)
    return place


def dump(file: Path) -> list[str]:
    with sqlite3.connect(file) as connection:
        return list(connection.iterdump())


def schema(file: Path) -> dict[str, list[str]]:
    """The words of every table's and index's SQL, sorted: constraints may change places."""
    with sqlite3.connect(file) as connection:
        rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql NOT NULL")
        return {name: sorted(text.replace(",", " ").split()) for name, text in rows}


def test_the_revisions_are_those_of_the_scripts() -> None:
    scripts = ScriptDirectory.from_config(migration_config())
    known = [script.revision for script in scripts.walk_revisions()]
    assert tuple(reversed(known)) == REVISIONS


def test_alembic_finds_no_difference_between_models_and_migrations(fresh: str) -> None:
    Store.open(fresh).close()
    engine = make_engine(database_url(fresh))
    with engine.connect() as connection:
        options = {"compare_type": True, "version_table": VERSION_TABLE}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, Base.metadata) == []
    engine.dispose()


def test_the_migrated_tables_are_literally_those_of_the_models(file: Path, tmp_path: Path) -> None:
    engine = make_engine(database_url(str(tmp_path / "models.db")))
    Base.metadata.create_all(engine)
    engine.dispose()
    migrated = schema(file)
    del migrated[VERSION_TABLE]

    wanted = schema(tmp_path / "models.db")
    assert migrated == wanted


def test_an_upgrade_that_makes_a_table_anew_keeps_its_children(file: Path, tmp_path: Path) -> None:
    upgrade(database_url(str(file)), folder=folder_with_next(tmp_path))
    with sqlite3.connect(file) as connection:
        for table in ("runs", "jobs", "variants"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (1,), table
        columns = [row[1] for row in connection.execute("PRAGMA table_info(runs)")]
        assert "colour" in columns
        assert connection.execute(f"SELECT * FROM {VERSION_TABLE}").fetchall() == [("next",)]
        parents = {row[2] for row in connection.execute("PRAGMA foreign_key_list(jobs)")}
        assert parents == {"runs"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ('op.execute("SELECT * FROM nowhere")', "no such table: nowhere"),
        ('op.execute("DELETE FROM runs")', "would leave rows of .* without their runs"),
    ],
    ids=["broken statement", "orphans"],
)
def test_a_migration_that_fails_changes_nothing(
    file: Path, tmp_path: Path, more: str, message: str
) -> None:
    before = dump(file)
    with pytest.raises(StoreError, match=message):
        upgrade(database_url(str(file)), folder=folder_with_next(tmp_path, more))
    assert dump(file) == before


def test_upgrading_what_is_up_to_date_changes_nothing(file: Path) -> None:
    before = dump(file)
    upgrade(database_url(str(file)))
    assert dump(file) == before


def test_token_losses_of_before_have_no_likeliest_tokens(tmp_path: Path) -> None:
    place = old_store(tmp_path, before="0004")
    two, losses = np.ones(2).tobytes(), np.array([0.5, 0.25], "<f4").tobytes()
    with sqlite3.connect(place) as connection:
        connection.execute("""INSERT INTO unit_sets VALUES ('u', '["a", "b"]', NULL, ?)""", [two])
        connection.execute(
            "INSERT INTO scores VALUES (1, 'k', 'r', 'perplexity', 'perplexity', 2.0, NULL, "
            "'ppl/token', 0, 'u', ?, '{}', '{}')",
            [two],
        )
        connection.execute(
            """INSERT INTO token_losses VALUES (1, 0, 1, '["x", "y"]', ?)""", [losses]
        )
    with Store.open(str(place)) as store:
        score = store.load_score(1)
    (kept,) = score.token_losses
    assert (kept.unit, kept.tokens, kept.losses.tolist()) == (1, ("x", "y"), [0.5, 0.25])
    assert kept.top_tokens == ()
    assert len(kept.top_probabilities) == 0


def test_trainings_of_before_are_found_by_their_family(tmp_path: Path) -> None:
    place = old_store(tmp_path, before="0005")
    with sqlite3.connect(place) as connection:
        connection.execute(
            "INSERT INTO runs (id, suite, place, started, suite_text, suite_json, arguments, "
            "provenance, gates) VALUES ('r', 's', '', '', '', '{}', '{}', '{}', '[]')"
        )
        known = '{"recipe_but_for_seed": "family", "seed": %d}'
        rows = [
            ("train a", "train", "done", known % 3_000_000_000, "adapter"),
            ("train b", "train", "reused", "{}", "of no family"),
            ("train c", "train", "failed", known % 1, None),
            ("train d", "train", "done", known % 2, None),
        ]
        connection.executemany(
            "INSERT INTO jobs (run_id, name, kind, status, seconds, facts, reuse_key, "
            "content_digest) VALUES ('r', ?, ?, ?, 1.0, ?, 'recipe', ?)",
            rows,
        )
    with Store.open(str(place)) as store:
        (draw,) = store.find_draws("family")
        assert (draw.run, draw.seed, draw.content_digest) == ("r", 3_000_000_000, "adapter")
        found = store.find_training("recipe")
        assert found is not None
        assert found.job.name == "train d"


def test_a_path_with_odd_characters(tmp_path: Path) -> None:
    folder = tmp_path / "100% ünï; code"
    shutil.copytree(MIGRATIONS, folder / "m", ignore=shutil.ignore_patterns("__pycache__"))
    upgrade(database_url(str(folder / "runs?.db")), folder=folder / "m")
    with Store.open(str(folder / "runs?.db"), create=False) as store:
        assert store.list_runs() == ()


def test_a_draft_holds_the_difference_to_the_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    table = sa.Table("bookmarks", Base.metadata, sa.Column("name", sa.String(), primary_key=True))
    try:
        draft = draft_migration("add bookmarks", tmp_path / "scratch.db", folder=folder)
    finally:
        Base.metadata.remove(table)
    text = draft.read_text()
    assert draft.parent == folder / "versions"
    assert text.count("create_table(") == 1
    assert "'bookmarks'" in text
    assert f"down_revision = '{REVISIONS[-1]}'" in text
