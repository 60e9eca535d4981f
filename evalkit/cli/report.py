"""`evalkit report`: the HTML report of a stored run, written again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evalkit.cli import options
from evalkit.cli.outputs import Outputs, show_run


def register(app: typer.Typer) -> None:
    """Adds the verb to the command line."""
    app.command(epilog="Example: evalkit report latest --reports reports")(report)


def report(
    run: options.RunId = "latest",
    reports: options.ReportsFolder = Path("reports"),
    json_file: options.JsonFile = None,
    junit_file: options.JunitFile = None,
    markdown_file: options.MarkdownFile = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of --json and do nothing else.")
    ] = False,
    database: options.Database = None,
) -> None:
    """Print a stored run and write its HTML report again. Needs no GPU and no weights."""
    if schema:
        from evalkit.report.json.schema import run_schema_text

        print(run_schema_text(), end="")
        return
    outputs = Outputs(json_file, junit_file, markdown_file, reports=reports)
    outputs.check()
    show_run(options.open_store(database).load_run(run), outputs, to_github=False)
