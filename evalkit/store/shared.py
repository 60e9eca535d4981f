"""Rows that many scores share, keyed by what is in them."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session

from evalkit.store import tables


def add_once(session: Session, row: tables.UnitSet | tables.TaskTextSet) -> None:
    """Writes a row, unless one of its digest is there."""
    if session.get(type(row), row.digest) is not None:
        return
    try:
        with session.begin_nested():
            session.add(row)
    except sa.exc.IntegrityError:
        # On a server another run can have written the same one in the meantime.
        session.expire_all()
