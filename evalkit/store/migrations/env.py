"""Alembic's entry: runs the migrations on the connection that `evalkit.store.migrating` hands over.

There is no offline mode and no URL here: the caller owns the connection and its transaction, so
that all migrations of one start stand or fall together.
"""

from __future__ import annotations

from alembic import context

from evalkit.store.tables import VERSION_TABLE, Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
    compare_type=True,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
