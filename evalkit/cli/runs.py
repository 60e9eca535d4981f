"""`evalkit runs`: what the store holds."""

from __future__ import annotations

from typing import Annotated

import typer

from evalkit.cli import options


def register(app: typer.Typer) -> None:
    """Adds the verb to the command line."""
    app.command(epilog="Example: evalkit runs --limit 5")(runs)


def runs(
    limit: Annotated[int, typer.Option(help="How many, newest first.", min=1)] = 20,
    database: options.Database = None,
) -> None:
    """List the runs in the store, newest first."""
    from rich.console import Console
    from rich.table import Table

    table = Table("run", "suite", "started (UTC)", "seconds", "exit code", box=None)
    for summary in options.open_store(database).list_runs(limit):
        table.add_row(
            summary.id,
            summary.suite,
            summary.started.replace("T", " ")[:19],
            "" if summary.seconds is None else f"{summary.seconds:.0f}",
            "unfinished" if summary.exit_code is None else str(summary.exit_code),
        )
    Console().print(table if table.row_count else "The store holds no runs yet.")
