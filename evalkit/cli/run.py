"""`evalkit run`: from a suite to its verdicts, a report and an exit code."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evalkit.cli import options

if TYPE_CHECKING:
    from rich.console import Console

    from evalkit.records import RunRecord


def register(app: typer.Typer) -> None:
    """Adds the verb to the command line."""
    app.command(epilog="Example: evalkit run suites/quickstart.yaml --json result.json")(run)


def run(
    context: typer.Context,
    suite: options.SuiteFile,
    overrides: options.Overrides = None,
    json_file: Annotated[
        str | None,
        typer.Option(
            "--json", metavar="FILE", help="Write the run as JSON; '-' is standard output."
        ),
    ] = None,
    reports: options.ReportsFolder = Path("reports"),
    database: options.Database = None,
    cache: options.CacheFolder = None,
    force: Annotated[bool, typer.Option("--force", help="Compute again what is stored.")] = False,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Run a suite: fine-tune or load its variants, score them, judge its gates.

    Exit code: 0 every gate is ok · 1 a gate is not ok · 2 the suite or the command line is wrong ·
    3 a job failed · 4 this machine cannot run the suite · 130 interrupted.
    """
    from rich.console import Console

    from evalkit.cli.progress import watch
    from evalkit.executors.local import LocalExecutor
    from evalkit.runner import RunOptions, run_suite

    # Deprecations inside the libraries are no news to who runs a suite.
    warnings.filterwarnings("ignore", category=FutureWarning)
    loaded = options.read_suite(suite, overrides)
    run_options = RunOptions(
        cache=options.cache_folder(cache),
        trust_remote_code=trust_remote_code,
        force=force,
        arguments=_arguments(context),
    )
    with watch(Console(stderr=True)) as watcher:
        record = run_suite(
            loaded,
            run_options,
            store=options.open_store(database, create=True),
            executor=LocalExecutor(),
            watcher=watcher,
        )
    show_run(record, reports, json_file, console=Console(stderr=json_file == "-"))
    raise typer.Exit(record.exit_code or 0)


def show_run(record: RunRecord, reports: Path, json_file: str | None, *, console: Console) -> None:
    """Prints a run, writes its report, and its JSON where that is asked for."""
    from evalkit.report.html import write_report
    from evalkit.report.run_json import run_json
    from evalkit.report.terminal import render_run

    render_run(record, console)
    page = write_report(record, reports)
    console.print(f"Report: {page}", style="dim", highlight=False, soft_wrap=True)
    if json_file is None:
        return
    import json

    text = json.dumps(run_json(record), indent=2, ensure_ascii=False)
    if json_file == "-":
        sys.stdout.write(text + "\n")
    else:
        Path(json_file).write_text(text + "\n", encoding="utf-8")


def _arguments(context: typer.Context) -> dict[str, Any]:
    """What was given on the command line, apart from what was left at its default."""
    given: dict[str, Any] = {}
    defaulted: dict[str, Any] = {}
    for name, value in context.params.items():
        source = context.get_parameter_source(name)
        place = defaulted if source is None or source.name.startswith("DEFAULT") else given
        place[name] = str(value) if isinstance(value, Path) else value
    return {"given": given, "defaulted": defaulted}
