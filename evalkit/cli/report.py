"""`evalkit report`: the HTML report of a stored run, or the pages of all runs, written again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evalkit.cli import options
from evalkit.cli.outputs import Outputs, check_folder, show_run
from evalkit.errors import UsageError


def register(app: typer.Typer) -> None:
    """Adds the verb to the command line."""
    app.command(epilog="Example: evalkit report latest --reports reports")(report)


def report(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN]",
            help="A run's id, or the beginning of it, or 'latest'.  [default: latest]",
            show_default=False,
        ),
    ] = None,
    reports: options.ReportsFolder = Path("reports"),
    json_file: options.JsonFile = None,
    junit_file: options.JunitFile = None,
    markdown_file: options.MarkdownFile = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of --json and do nothing else.")
    ] = False,
    site: Annotated[
        Path | None,
        typer.Option(
            "--site",
            metavar="DIR",
            help="Write pages of all runs instead: an index of suites, trends, any two runs.",
            show_default=False,
        ),
    ] = None,
    pages: options.WholePages = 5,
    database: options.Database = None,
) -> None:
    """Print a stored run and write its HTML report again. Needs no GPU and no weights."""
    if schema:
        from evalkit.report.json.schema import run_schema_text

        print(run_schema_text(), end="")
        return
    if site is not None:
        files = {"--json": json_file, "--junit": junit_file, "--markdown": markdown_file}
        given = [name for name, value in {"RUN": run, **files}.items() if value is not None]
        if given:
            raise UsageError(
                f"--site writes the pages of all runs, and {', '.join(given)} means one run: "
                "leave one of them out"
            )
        print(build_site(site, pages, database))
        return
    outputs = Outputs(json_file, junit_file, markdown_file, reports=reports)
    outputs.check()
    show_run(options.open_store(database).load_run(run or "latest"), outputs, to_github=False)


def build_site(folder: Path, pages: int, database: str | None) -> str:
    """Writes the pages of all runs and says what it wrote.

    Args:
        folder: of the site.
        pages: how many of the newest runs of each suite have a whole page.
        database: what `--db` said.

    Returns:
        '3 suites, 1,000 runs: 4 files written, 1,021 unchanged'.

    Raises:
        UsageError: the folder cannot be one.
        EvalkitError: a file cannot be written, or the store cannot be read.
    """
    check_folder("--site", folder)
    store = options.open_store(database)
    from evalkit.report.site import write_site
    from evalkit.report.words import counted

    with store:
        done = write_site(store, folder, whole_pages=pages)
    wrote = f"{counted(done.written, 'file')} written, {done.unchanged:,} unchanged"
    return f"{counted(done.suites, 'suite')}, {counted(done.runs, 'run')}: {wrote}"
