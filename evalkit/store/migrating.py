"""Brings a database's schema up to date with the migrations that ship in this package.

The only file that imports Alembic, inside functions: most starts need no migration, and the import
alone takes longer than opening the store.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from evalkit.errors import StoreError
from evalkit.store.engines import display, for_writing, make_engine
from evalkit.store.failures import explained

if TYPE_CHECKING:
    from alembic.config import Config

MIGRATIONS: Final = Path(__file__).parent / "migrations"


def migration_config(folder: Path = MIGRATIONS) -> Config:
    """Alembic's configuration, built here so that an installed package needs no alembic.ini."""
    from alembic.config import Config

    config = Config()
    # A percent sign in the path would be read as an interpolation.
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def upgrade(url: sa.URL, *, folder: Path = MIGRATIONS) -> None:
    """Runs every migration that the database has not seen, all of them or none.

    Several processes may call this at once: one migrates, the others wait and find it done.

    Args:
        url: of the database, whose folder exists.
        folder: where the migrations are.

    Raises:
        StoreError: a migration failed; the database is as it was.
    """
    from alembic import command
    from alembic.util import CommandError

    place = display(url)
    # SQLite alters a table by making it anew: with foreign keys on, dropping the old one would
    # delete the rows of other tables that point to it.
    engine = for_writing(make_engine(url, foreign_keys=False))
    config = migration_config(folder)
    try:
        with explained(place), engine.begin() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            _check_foreign_keys(connection, place)
    except CommandError as error:
        raise StoreError(f"{place}: the schema cannot be brought up to date: {error}") from error
    finally:
        engine.dispose()


def _check_foreign_keys(connection: sa.Connection, place: str) -> None:
    if connection.dialect.name != "sqlite":
        return
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
    if broken is not None:
        raise StoreError(
            f"{place}: a migration would leave rows of {broken[0]} without their {broken[2]}; "
            "nothing was changed"
        )


def draft_migration(message: str, scratch: Path, *, folder: Path = MIGRATIONS) -> Path:
    """Writes a new migration from the difference between the models and a fresh database.

    For developers: `python -c "from evalkit.store.migrating import draft_migration; ..."`; then
    read it, rename it, and add its revision to `tables.REVISIONS`.

    Args:
        message: what changes, in a few words.
        scratch: a file that does not exist; a database is made there.
        folder: where the migrations are.

    Returns:
        The new file.
    """
    from alembic import command
    from alembic.script import Script

    url = sa.URL.create("sqlite", database=str(scratch))
    upgrade(url, folder=folder)
    config = migration_config(folder)
    engine = make_engine(url)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        script = command.revision(config, message, autogenerate=True)
    engine.dispose()
    if not isinstance(script, Script):
        raise TypeError(f"one migration was asked for, not {script!r}")
    return Path(script.path)
