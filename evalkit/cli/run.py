"""`evalkit run`: from a suite to its verdicts, a report and an exit code."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from evalkit.cli import options
from evalkit.cli.outputs import Outputs, show_run


def register(app: typer.Typer) -> None:
    """Adds the verb to the command line."""
    app.command(epilog="Example: evalkit run suites/quickstart.yaml --json result.json")(run)


def run(
    context: typer.Context,
    suite: options.SuiteFile,
    overrides: options.Overrides = None,
    json_file: options.JsonFile = None,
    junit_file: options.JunitFile = None,
    markdown_file: options.MarkdownFile = None,
    baseline: options.BaselineChoice = None,
    bootstrap: Annotated[
        bool,
        typer.Option(
            "--bootstrap",
            help="Promote this run where the suite has no baseline yet and all other gates are ok.",
        ),
    ] = False,
    reports: options.ReportsFolder = Path("reports"),
    database: options.Database = None,
    cache: options.CacheFolder = None,
    aa: options.MeasureNoise = None,
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
    outputs = Outputs(json_file, junit_file, markdown_file, reports=reports)
    outputs.check()
    loaded = options.read_suite(suite, overrides)
    run_options = RunOptions(
        cache=options.cache_folder(cache),
        trust_remote_code=trust_remote_code,
        force=force,
        noise=aa,
        arguments=_arguments(context),
        baseline=baseline,
        bootstrap=bootstrap,
        database=database,
    )
    with watch(Console(stderr=True)) as watcher:
        record = run_suite(
            loaded,
            run_options,
            store=options.open_store(database, create=True),
            executor=LocalExecutor(owns_process=True),
            watcher=watcher,
        )
    show_run(record, outputs, to_github=True)
    raise typer.Exit(record.exit_code or 0)


def _arguments(context: typer.Context) -> dict[str, Any]:
    """What was given on the command line, apart from what was left at its default.

    Credentials in URLs are masked: this is stored, and shown in reports.
    """
    given: dict[str, Any] = {}
    defaulted: dict[str, Any] = {}
    for name, value in context.params.items():
        source = context.get_parameter_source(name)
        place = defaulted if source is None or source.name.startswith("DEFAULT") else given
        place[name] = _recorded(value)
    return {"given": given, "defaulted": defaulted}


def _recorded(value: Any) -> Any:
    from evalkit.store import masked

    if isinstance(value, str | Path):
        return masked(str(value))
    return [_recorded(item) for item in value] if isinstance(value, list | tuple) else value
