"""How connections to each kind of database are set up: transactions, locks, waiting.

SQLite locks the whole file for a writer. On PostgreSQL an advisory lock does the same: writers of
one database, migrations included, come one after another, and each of them is short. So no two of
them can block each other for ever, and neither database needs a second set of rules.
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa

from evalkit.errors import MissingPackageError
from evalkit.store.failures import masked
from evalkit.store.json_columns import from_json, to_json

BUSY_SECONDS: Final = 60.0
"""How long a writer waits for another one."""

POSTGRESQL: Final = "postgresql"
SQLITE: Final = "sqlite"

_IMMEDIATE: Final = "IMMEDIATE"
_LOCK: Final = 0x6576616C6B6974  # "evalkit" in ASCII: any number that other programs do not use
_CONNECT_SECONDS: Final = 30


def make_engine(url: sa.URL, *, foreign_keys: bool = True) -> sa.Engine:
    """An engine whose transactions are real on SQLite too.

    A transaction begins as its engine's execution option `begin` says: DEFERRED for readers, who
    then see one state throughout; IMMEDIATE for writers, who otherwise could fail halfway, where
    waiting no longer helps; None for what SQLite does outside of transactions only.

    Args:
        url: of the database, as `opening.database_url` gives it.
        foreign_keys: False while tables are being made anew: SQLite would cascade.

    Raises:
        MissingPackageError: the driver is not installed.
    """
    options: dict[str, Any] = {"json_serializer": to_json, "json_deserializer": from_json}
    if url.get_backend_name() == SQLITE:
        # The driver must not begin transactions by itself: it would leave DDL out of them.
        options["connect_args"] = {"isolation_level": None, "timeout": BUSY_SECONDS}
    else:
        # Between two jobs hours may pass, and what is between us and a server drops what is idle.
        options["pool_pre_ping"] = True
        options["connect_args"] = _connect_arguments(url)
    try:
        engine = sa.create_engine(url, hide_parameters=True, **options)
    except ImportError as error:
        purpose = f"for the database {display(url)}"
        raise MissingPackageError("'evalkit-lm[postgresql]'", purpose=purpose) from error
    if url.get_backend_name() == SQLITE:
        _set_up_sqlite(engine, foreign_keys=foreign_keys)
    else:
        _set_up_postgresql(engine)
    return engine


def for_reading(engine: sa.Engine) -> sa.Engine:
    """The engine for transactions that see one state from their beginning to their end."""
    if engine.dialect.name == SQLITE:
        return engine
    return engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


def for_writing(engine: sa.Engine) -> sa.Engine:
    """The engine for transactions that write: one after another, whoever begins them."""
    if engine.dialect.name == SQLITE:
        return engine.execution_options(begin=_IMMEDIATE)
    # Whatever the server's default is: the state must be that after the lock, not before it.
    return engine.execution_options(begin=_IMMEDIATE, isolation_level="READ COMMITTED")


def display(url: sa.URL) -> str:
    """A path for SQLite, otherwise the URL with its credentials masked."""
    if url.get_backend_name() == SQLITE and url.database:
        return url.database
    return masked(url.render_as_string(hide_password=True))


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


def _connect_arguments(url: sa.URL) -> dict[str, Any]:
    """What libpq is told beside the URL, which comes first."""
    arguments = {
        "connect_timeout": _CONNECT_SECONDS,
        "fallback_application_name": "evalkit",
    }
    return {name: value for name, value in arguments.items() if name not in url.query}


def _set_up_postgresql(engine: sa.Engine) -> None:
    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        if connection.get_execution_options().get("begin") != _IMMEDIATE:
            return
        milliseconds = int(BUSY_SECONDS * 1000)
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {milliseconds}")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
