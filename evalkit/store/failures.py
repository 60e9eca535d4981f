"""The database's errors in a user's words, with no credentials in them."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from evalkit.errors import EvalkitError, StoreError

_CREDENTIALS = re.compile(r"(://)[^\s:]*:.*(@)", re.DOTALL)
_SECRET_OPTIONS = re.compile(
    r"((?:password|passwd|pwd|secret|token)[^=&\s]*=)[^&\s]+", re.IGNORECASE
)

_ANOTHER = "name another place with --db"
_KEPT = "What was recorded before is kept"
_DAMAGED = (
    "the database is damaged. Copy its files (also those that end in -wal and -shm) before "
    "anything else. Then restore a backup, or save what can be read: sqlite3 FILE .recover | "
    f"sqlite3 NEW; or {_ANOTHER}"
)
_LOCKED = f"another process kept the database locked for too long. End it, or {_ANOTHER}"
_GONE = f"the server ended the connection. {_KEPT}; run the same command again to go on from there"
_FULL = f"no space is left for the database. {_KEPT}; free some space, or {_ANOTHER}"

_KNOWN = (
    (
        "not a database",
        f"this file is no SQLite database, and was left as it is. Restore a backup of it, or "
        f"{_ANOTHER}",
    ),
    ("malformed", _DAMAGED),
    ("disk is full", _FULL),
    (
        "readonly database",
        "the database cannot be written: the file or its folder is read-only. Make them writable, "
        f"copy the database elsewhere, or {_ANOTHER}",
    ),
    (
        "unable to open database file",
        "the database cannot be opened: its folder must exist and be writable, also for reading. "
        f"Copy the database elsewhere, or {_ANOTHER}",
    ),
    ("database is locked", _LOCKED),
    (
        "disk i/o error",
        "the disk reported an error while the database was read or written. Check its free space, "
        "quota and health; then run the same command again, which goes on from what is stored, or "
        f"{_ANOTHER}",
    ),
    ("server closed the connection", _GONE),
    ("connection is lost", _GONE),
)
"""What an error's text holds, and the same in other words."""

_STATES = {
    "55P03": _LOCKED,
    "53100": _FULL,
    "57P01": _GONE,
    "25006": f"the server lets nobody write to this database. Ask its keeper, or {_ANOTHER}",
}
"""PostgreSQL's SQLSTATE, and what it means to a user."""
_MAY_NOT = "42501"
_NO_SERVER = f"Is the server there, and are the URL, the user and the password right? Or {_ANOTHER}"


def masked(place: str) -> str:
    """A database's path or URL as it may be printed: passwords become `***`.

    Works on what SQLAlchemy cannot parse too, since that is when it is printed; rather hides too
    much than too little.
    """
    return _SECRET_OPTIONS.sub(r"\1***", _CREDENTIALS.sub(r"\1***:***\2", place))


def explain(error: BaseException, place: str) -> StoreError:
    """A `StoreError` that says what to do about a database's error.

    Args:
        error: what SQLAlchemy or the driver raised. Its SQL and parameters are left out.
        place: the database's path or URL; credentials are masked here.
    """
    cause = getattr(error, "orig", None) or error
    return StoreError(f"{masked(place)}: {_in_words(cause)}")


def _in_words(cause: BaseException) -> str:
    state = getattr(cause, "sqlstate", None)
    # Below its first line a server quotes the statement.
    words = str(cause).splitlines()[:1] if state else str(cause).split()
    text = " ".join(words)
    known = next((words for sign, words in _KNOWN if sign in text.lower()), None)
    if state in _STATES or known:
        return _STATES.get(state or "") or str(known)
    shown = masked(text) or type(cause).__name__
    if state == _MAY_NOT:
        return f"{shown}. docs/store.md says which rights a user of the store needs"
    if "connection failed" in text or "connection is bad" in text or "timeout expired" in text:
        return f"{shown}. {_NO_SERVER}"
    return shown


@contextmanager
def explained(place: str) -> Iterator[None]:
    """Turns every error of the database, in the block, into a `StoreError`."""
    try:
        yield
    except (sa.exc.SQLAlchemyError, OSError, UnicodeError) as error:
        raise explain(error, place) from error


@contextmanager
def read_back(place: str) -> Iterator[None]:
    """Turns what cannot be unpacked, in a block that only reads, into a `StoreError` of damage.

    SQLite looks at how its pages hang together and not at what is in them, so a byte that changed
    inside a value shows only here.
    """
    try:
        yield
    except EvalkitError:
        raise
    except (ValueError, LookupError, TypeError, zlib.error) as error:
        raise StoreError(
            f"{place}: holds what cannot be read back ({type(error).__name__}): {_DAMAGED}"
        ) from error
