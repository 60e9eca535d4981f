"""Opens the database: where it is, how its connections are set up, whether its schema is ours."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from evalkit.errors import MissingPackageError, StoreError
from evalkit.store.failures import explained, masked
from evalkit.store.tables import REVISIONS, VERSION_TABLE

BUSY_SECONDS: Final = 60.0
"""How long a writer waits for another one."""

_DRIVERS: Final = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary"}


def database_url(place: str) -> sa.URL:
    """The URL of a database that is named by a path or a URL.

    Raises:
        StoreError: it is neither, or would vanish with the process.
    """
    if place == ":memory:":
        place = "sqlite://"
    if "://" not in place:
        return sa.URL.create("sqlite", database=str(Path(place).expanduser()))
    try:
        url = sa.make_url(place)
    except (sa.exc.ArgumentError, ValueError) as error:
        allowed = "a path, or a URL such as sqlite:///runs.db"
        raise StoreError(f"{masked(place)}: no database ({allowed})") from error
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise StoreError(f"{place}: a store in memory would keep nothing; name a file")
    return url


def is_new(place: str) -> bool:
    """Whether opening this path or URL would make a SQLite file that is not there yet.

    Raises:
        StoreError: it is neither.
    """
    url = database_url(place)
    return url.get_backend_name() == "sqlite" and not Path(url.database or "").exists()


def open_engine(url: sa.URL, *, create: bool) -> sa.Engine:
    """An engine on a database that exists and holds the schema of `tables.REVISIONS[-1]`.

    Alembic is imported only where the schema is missing or older.

    Args:
        url: from `database_url`.
        create: make a database that is not there; otherwise that is an error.

    Raises:
        StoreError: it cannot be opened, is not ours, or is newer than this code.
        MissingPackageError: its driver is not installed.
    """
    place = display(url)
    with explained(place):
        _prepare_file(url, create=create)
        engine = make_engine(url)
        try:
            _use_wal(engine)
            revision = stored_revision(engine, place)
            if revision != REVISIONS[-1]:
                from evalkit.store.migrating import upgrade

                upgrade(url)
        except BaseException:
            engine.dispose()
            raise
    return engine


def display(url: sa.URL) -> str:
    """A path for SQLite, otherwise the URL with its credentials masked."""
    if url.get_backend_name() == "sqlite" and url.database:
        return url.database
    return masked(url.render_as_string(hide_password=True))


def make_engine(url: sa.URL, *, foreign_keys: bool = True) -> sa.Engine:
    """An engine whose transactions are real on SQLite too.

    A transaction begins as its engine's execution option `begin` says: DEFERRED for readers, who
    then see one state throughout; IMMEDIATE for writers, who otherwise could fail halfway, where
    waiting no longer helps; None for what SQLite does outside of transactions only.

    Args:
        url: of the database.
        foreign_keys: False while tables are being made anew: SQLite would cascade.

    Raises:
        MissingPackageError: the driver is not installed.
    """
    options: dict[str, Any] = {"hide_parameters": True}
    if url.get_backend_name() == "sqlite":
        # The driver must not begin transactions by itself: it would leave DDL out of them.
        options["connect_args"] = {"isolation_level": None, "timeout": BUSY_SECONDS}
    try:
        engine = sa.create_engine(url, **options)
    except ModuleNotFoundError as error:
        package = _DRIVERS.get(error.name or "", error.name or url.drivername)
        raise MissingPackageError(package, purpose=f"for the database {display(url)}") from error
    if url.get_backend_name() == "sqlite":
        _set_up_sqlite(engine, foreign_keys=foreign_keys)
    return engine


def _set_up_sqlite(engine: sa.Engine, *, foreign_keys: bool) -> None:
    @sa.event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: object) -> None:
        connection.execute(f"PRAGMA foreign_keys={'ON' if foreign_keys else 'OFF'}")
        # A result that was reported must be there after a power cut; NORMAL may lose it in WAL.
        connection.execute("PRAGMA synchronous=FULL")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        mode = connection.get_execution_options().get("begin", "DEFERRED")
        if mode is not None:
            connection.exec_driver_sql(f"BEGIN {mode}")


def _prepare_file(url: sa.URL, *, create: bool) -> None:
    if url.get_backend_name() != "sqlite" or url.database is None:
        return
    file = Path(url.database)
    if file.exists():
        return
    if not create:
        raise StoreError(f"{file}: there is no store yet; `evalkit run SUITE` makes one")
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
    if engine.dialect.name != "sqlite":
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
                "Name another with --db"
            )
        version = sa.table(VERSION_TABLE, sa.column("version_num", sa.String))
        revision = connection.execute(sa.select(version.c.version_num)).scalar()
    if revision is not None and revision not in REVISIONS:
        raise StoreError(
            f"{place}: written by a newer evalkit (schema {revision}; this one knows up to "
            f"{REVISIONS[-1]}). Update it: pip install -U evalkit-lm; or name another store "
            "with --db"
        )
    return None if revision is None else str(revision)
