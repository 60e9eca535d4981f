"""The database's errors in a user's words, with no credentials in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from evalkit.errors import StoreError

_CREDENTIALS = re.compile(r"(://)[^/@\s]*:\S*(@)")
_SECRET_OPTIONS = re.compile(
    r"((?:password|passwd|pwd|secret|token)[^=&\s]*=)[^&\s]+", re.IGNORECASE
)

_KNOWN = (
    (
        "not a database",
        "this file is no SQLite database. Name another with --db, or move this one away",
    ),
    (
        "malformed",
        "the database is damaged. Restore it from a copy, or move it away and start a new one",
    ),
    (
        "disk is full",
        "no space is left for the database. What was recorded before is kept; "
        "free some space, or name another place with --db",
    ),
    (
        "readonly database",
        "the database cannot be written: the file or its folder is read-only. "
        "Name another place with --db",
    ),
    (
        "unable to open database file",
        "the database cannot be opened: its folder must exist and be writable. "
        "Name another place with --db",
    ),
    (
        "database is locked",
        "another process kept the database locked for too long. "
        "End it, or name another place with --db",
    ),
    ("disk i/o error", "the disk reported an error while the database was read or written"),
)


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
    text = str(cause)
    known = next((words for sign, words in _KNOWN if sign in text.lower()), None)
    detail = known or masked(text) or type(cause).__name__
    return StoreError(f"{masked(place)}: {detail}")


@contextmanager
def explained(place: str) -> Iterator[None]:
    """Turns every error of the database, in the block, into a `StoreError`."""
    try:
        yield
    except (sa.exc.SQLAlchemyError, OSError, UnicodeError) as error:
        raise explain(error, place) from error
