"""`evalkit report`: the HTML report of a stored run, written again."""

from __future__ import annotations

from pathlib import Path

import typer

from evalkit.cli import options


def register(app: typer.Typer) -> None:
    """Adds the verb to the command line."""
    app.command(epilog="Example: evalkit report latest --reports reports")(report)


def report(
    run: options.RunId = "latest",
    reports: options.ReportsFolder = Path("reports"),
    database: options.Database = None,
) -> None:
    """Print a stored run and write its HTML report again. Needs no GPU and no weights."""
    from rich.console import Console

    from evalkit.cli.run import show_run

    record = options.open_store(database).load_run(run)
    show_run(record, reports, None, console=Console())
