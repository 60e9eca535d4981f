"""Opens the database: where it is, whether its schema is ours."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from evalkit.errors import NoStoreError, StoreError
from evalkit.store.engines import BUSY_SECONDS, POSTGRESQL, SQLITE, display, make_engine
from evalkit.store.failures import explained, masked
from evalkit.store.tables import REVISIONS, VERSION_TABLE

_DRIVERS: Final = {
    "sqlite": "sqlite",
    "sqlite+pysqlite": "sqlite",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}
"""What a URL may begin with, and the driver that evalkit is tested with."""
_ALLOWED: Final = "a path, or a URL: sqlite:///runs.db, postgresql+psycopg://user@host/name"
_OR_A_SCHEMA: Final = {POSTGRESQL: ", or a schema of its own: ...?options=-csearch_path%3DSCHEMA"}


def database_url(place: str) -> sa.URL:
    """The URL of a database that is named by a path or a URL.

    Raises:
        StoreError: it is neither, is of a kind that evalkit does not know, or would vanish with the
            process.
    """
    if place == ":memory:":
        place = "sqlite://"
    if "://" not in place:
        return sa.URL.create("sqlite", database=str(Path(place).expanduser()))
    try:
        url = sa.make_url(place)
    except (sa.exc.ArgumentError, ValueError):
        # Not "from" it: the parser's own words may quote a part of the password.
        raise StoreError(f"{masked(place)}: no database (allowed: {_ALLOWED})") from None
    if url.drivername not in _DRIVERS:
        raise StoreError(
            f"{masked(place)}: evalkit keeps no store in {url.drivername!r} (allowed: {_ALLOWED})"
        )
    url = url.set(drivername=_DRIVERS[url.drivername])
    if url.get_backend_name() == SQLITE and url.database in (None, "", ":memory:"):
        raise StoreError(f"{place}: a store in memory would keep nothing; name a file")
    return url


def is_new(place: str) -> bool:
    """Whether opening this path or URL would make a store that is not there yet.

    Raises:
        StoreError: it is neither, or its server cannot be asked.
        MissingPackageError: its driver is not installed.
    """
    url = database_url(place)
    if url.get_backend_name() == SQLITE:
        return not Path(url.database or "").exists()
    shown = display(url)
    engine = make_engine(url)
    try:
        with explained(shown):
            return stored_revision(engine, shown) is None
    finally:
        engine.dispose()


def open_engine(url: sa.URL, *, create: bool) -> sa.Engine:
    """An engine on a database that exists and holds the schema of `tables.REVISIONS[-1]`.

    Alembic is imported only where the schema is missing or older.

    Args:
        url: from `database_url`.
        create: make a database that is not there; otherwise that is an error.

    Raises:
        NoStoreError: there is none, and none is to be made.
        StoreError: it cannot be opened, is not ours, or is newer than this code.
        MissingPackageError: its driver is not installed.
    """
    place = display(url)
    with explained(place):
        _prepare_file(url, create=create)
        engine = make_engine(url)
        try:
            revision = stored_revision(engine, place)
            if revision is None and not create:
                raise NoStoreError(
                    f"{place}: this database holds no store yet; `evalkit run SUITE` makes one"
                )
            # Only now: a database of another program, or of a newer evalkit, stays as it is.
            _use_wal(engine)
            if revision != REVISIONS[-1]:
                from evalkit.store.migrating import upgrade

                upgrade(url)
        except BaseException:
            engine.dispose()
            raise
    return engine


def _prepare_file(url: sa.URL, *, create: bool) -> None:
    if url.get_backend_name() != SQLITE or url.database is None:
        return
    file = Path(url.database)
    if file.exists():
        return
    if not create:
        raise NoStoreError(f"{file}: there is no store yet; `evalkit run SUITE` makes one")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise StoreError(
            f"{file}: the folder {file.parent} cannot be made ({reason}). "
            "Name another place with --db"
        ) from error


def _use_wal(engine: sa.Engine) -> None:
    """Lets readers read while a writer writes. Lasting, so mostly only looked at."""
    if engine.dialect.name != SQLITE:
        return
    with engine.connect().execution_options(begin=None) as connection:
        if _journal_mode(connection, "") == "wal":
            return
        # SQLite does not wait here as it does elsewhere when several processes start at once.
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                _journal_mode(connection, "=WAL")
            except sa.exc.OperationalError as error:
                if "locked" not in str(error.orig) or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                return


def _journal_mode(connection: sa.Connection, change: str) -> str:
    return str(connection.exec_driver_sql(f"PRAGMA journal_mode{change}").scalar())


def stored_revision(engine: sa.Engine, place: str) -> str | None:
    """The schema's revision in the database; None where it is empty.

    Raises:
        StoreError: it holds something else than a store of evalkit, or a newer one.
    """
    with engine.connect() as connection:
        tables = set(sa.inspect(connection).get_table_names())
        if not tables:
            return None
        if VERSION_TABLE not in tables:
            found = ", ".join(sorted(tables)[:4])
            raise StoreError(
                f"{place}: this database is not evalkit's (it holds {found}). "
                f"Name another with --db{_OR_A_SCHEMA.get(engine.dialect.name, '')}"
            )
        version = sa.table(VERSION_TABLE, sa.column("version_num", sa.String))
        revision = connection.execute(sa.select(version.c.version_num)).scalar()
    if revision is not None and revision not in REVISIONS:
        raise StoreError(
            f"{place}: written by a newer evalkit (schema {revision}; this one knows up to "
            f"{REVISIONS[-1]}). Nothing was changed. Update evalkit: pip install -U evalkit-lm; or "
            "name another store with --db"
        )
    return None if revision is None else str(revision)
