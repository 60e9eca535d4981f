"""`evalkit runs`: what the store holds, and runs from one store to another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evalkit.cli import options

commands = typer.Typer(
    help="List the runs in the store, newest first; export, import.",
    epilog="Example: evalkit runs --limit 5",
)

File = Annotated[Path, typer.Argument(metavar="FILE", help="A .jsonl.gz file.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Adds the verb to the command line."""
    app.add_typer(commands, name="runs")


@commands.callback(invoke_without_command=True)
def runs(
    context: typer.Context,
    limit: Annotated[int, typer.Option(help="How many, newest first.", min=1)] = 20,
    database: options.Database = None,
) -> None:
    """List the runs in the store, newest first; export, import."""
    if context.invoked_subcommand is None:
        _show_list(limit, database)
        return
    from evalkit.errors import UsageError

    for name in ("limit", "database"):
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = {"limit": "--limit", "database": "--db"}[name]
            place = f"evalkit runs {context.invoked_subcommand}"
            allowed = f"write it behind `{place}`" if name == "database" else "leave it out"
            raise UsageError(f"{option} before a command of `evalkit runs` does nothing: {allowed}")


@commands.command(
    "export",
    epilog="Example: evalkit runs export latest run.jsonl.gz",
)
def export_file(
    *,
    run: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN...", help="Ids, beginnings of ids, or 'latest'.", show_default=False
        ),
    ] = None,
    file: File,
    every: Annotated[bool, typer.Option("--all", help="Every run of the store.")] = False,
    database: options.Database = None,
) -> None:
    """Write whole runs to a file.

    It holds every score with what lies behind it, samples and verdicts, and unlike an exported
    baseline texts and tokens. The same runs give the same bytes.
    """
    from evalkit.errors import UsageError
    from evalkit.machine import readable_bytes
    from evalkit.store import export_runs

    if bool(run) == every:
        raise UsageError("name the runs to export, or --all of them")
    ids = export_runs(options.open_store(database), None if every else run, file)
    what = f"run {ids[0]}" if len(ids) == 1 else f"{len(ids)} runs"
    print(f"Wrote {what}: {file}, {readable_bytes(file.stat().st_size)}.")


@commands.command("import", epilog="Example: evalkit runs import run.jsonl.gz")
def import_file(
    file: File,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Take the file's in the place of runs that differ."),
    ] = False,
    database: options.Database = None,
) -> None:
    """Read exported runs into the store, all of them or none.

    Runs that are there already stay as they are. Exit code: 0 imported · 2 refused: the file is
    damaged or of a newer evalkit, or a run is there and differs.
    """
    from evalkit.store import import_runs
    from evalkit.store.run_files import check_run_file

    # Before a store is made for it.
    check_run_file(file)
    found = import_runs(options.open_store(database, create=True), file, replace=replace)
    parts = [
        (found.added, "imported"),
        (found.replaced, "replaced"),
        (found.known, "already there"),
    ]
    counts = ", ".join(f"{len(ids)} {what}" for ids, what in parts if ids)
    print(f"{file}: {counts}.")


def _show_list(limit: int, database: str | None) -> None:
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
