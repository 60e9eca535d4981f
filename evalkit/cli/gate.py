"""`evalkit gate`: judge a stored run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evalkit.cli import options


def register(app: typer.Typer) -> None:
    """Adds the verb to the command line."""
    app.command(epilog="Example: evalkit gate latest --suite suites/quickstart.yaml")(gate)


def gate(
    run: options.RunId = "latest",
    suite: Annotated[
        Path | None,
        typer.Option("--suite", metavar="FILE", help="Judge by this suite's gates, not the run's."),
    ] = None,
    database: options.Database = None,
) -> None:
    """Judge a stored run again, from its stored scores. The stored verdicts stay as they are.

    Exit code: 0 every gate is ok · 1 a gate is not ok · 3 a job of the run had failed.
    """
    from dataclasses import replace

    from rich.console import Console

    from evalkit.report.terminal import render_run
    from evalkit.runner import verdicts_of

    record = options.open_store(database).load_run(run)
    if suite is not None:
        record = replace(record, gates=options.read_suite(suite, None).gates)
    verdicts, code = verdicts_of(record)
    render_run(replace(record, verdicts=verdicts, exit_code=code), Console())
    raise typer.Exit(code)
