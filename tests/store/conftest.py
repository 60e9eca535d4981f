"""The places of stores: a file, and a database of a real PostgreSQL server."""

from __future__ import annotations

import pytest

from evalkit.store.tables import Base

KINDS = ("sqlite", "postgresql")


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path) -> str:
    """Where an empty store is or may be made; what asks for it runs once for each kind."""
    if request.param == "sqlite":
        return str(tmp_path / "new" / "runs.db")
    server, database = request.getfixturevalue("migrated")
    server.empty(database, Base.metadata.tables)
    return server.url(database)


@pytest.fixture(params=KINDS)
def fresh(request: pytest.FixtureRequest, tmp_path) -> str:
    """Where nothing is: no file, or an empty database."""
    if request.param == "sqlite":
        return str(tmp_path / "new" / "runs.db")
    server = request.getfixturevalue("postgres")
    return server.url(server.new_database())
