"""`evalkit run`: from a suite to its verdicts, a report and an exit code."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evalkit.cli import options
from evalkit.cli.outputs import Outputs, show_run

if TYPE_CHECKING:
    from evalkit.runner import RunOptions
    from evalkit.store import Store
    from evalkit.suite import Suite


def register(app: typer.Typer) -> None:
    """Adds the verb to the command line."""
    app.command(epilog="Example: evalkit run suites/quickstart.yaml --only nf4 --dry-run")(run)


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
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="VARIANT",
            help="Compute this variant alone, and what it needs; of others, take what is stored. "
            "May be repeated.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on from this suite's last run, which must have stopped early. Any run takes "
            "up what is stored; this one refuses where there is nothing to go on from.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the jobs and what is stored; run nothing.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Compute again what is stored.")] = False,
    trust_remote_code: options.TrustRemoteCode = False,
    executor: options.ExecutorChoice = "local",
    address: options.ClusterAddress = None,
    shards: options.Shards = 1,
) -> None:
    """Run a suite: make its variants, score them, judge its gates.

    Exit code: 0 every gate is ok · 1 a gate is not ok · 2 the suite or the command line is wrong ·
    3 a job failed · 4 this machine cannot run the suite · 130 interrupted.
    """
    from rich.console import Console

    from evalkit.cli.progress import watch
    from evalkit.runner import RunOptions, run_suite

    _check_together(only=bool(only), bootstrap=bootstrap, resume=resume, force=force)
    # Deprecations inside the libraries are no news to who runs a suite.
    warnings.filterwarnings("ignore", category=FutureWarning)
    outputs = Outputs(json_file, junit_file, markdown_file, reports=reports)
    if not dry_run:
        outputs.check()
    loaded = options.read_suite(suite, overrides)
    run_options = RunOptions(
        cache=options.cache_folder(cache),
        trust_remote_code=trust_remote_code,
        force=force,
        only=tuple(only or ()),
        noise=aa,
        arguments=_arguments(context),
        baseline=baseline,
        bootstrap=bootstrap,
        database=database,
    )
    if dry_run:
        with _looked_into(database) as store:
            if resume:
                _go_on(store, loaded)
            _show_plan(loaded, run_options, store)
        return
    if resume:
        _check_stored(database)
    with options.executor(executor, address, shards) as performs:
        store = options.open_store(database, create=True)
        if resume:
            _go_on(store, loaded)
        with watch(Console(stderr=True)) as watcher:
            record = run_suite(
                loaded,
                run_options,
                store=store,
                executor=performs,
                watcher=watcher,
            )
    show_run(record, outputs, to_github=True)
    raise typer.Exit(record.exit_code or 0)


def _check_together(*, only: bool, bootstrap: bool, resume: bool, force: bool) -> None:
    """Refuses options that contradict each other.

    Raises:
        UsageError: says which to leave out.
    """
    from evalkit.errors import UsageError

    if only and bootstrap:
        raise UsageError("--bootstrap promotes a whole run, and --only scores a part: give one")
    if resume and force:
        raise UsageError("--resume takes up what is stored, and --force does not: give one")


def _check_stored(database: str | None) -> None:
    """Refuses to make a new store for a run that is to go on from one.

    Raises:
        UsageError: there is no store.
    """
    from evalkit.errors import UsageError
    from evalkit.store import DEFAULT_STORE, is_new, masked

    if is_new(database or DEFAULT_STORE):
        place = masked(database or DEFAULT_STORE)
        raise UsageError(f"--resume: {place}: there is no store yet, so nothing to go on from")


def _go_on(store: Store, suite: Suite) -> None:
    """Says on standard error which run is gone on from.

    Raises:
        UsageError: this suite's last run ended, or there is none.
    """
    import sys

    from evalkit.running.resuming import last_run, standing

    print(f"going on from {standing(last_run(store, suite.name))}", file=sys.stderr)


@contextmanager
def _looked_into(database: str | None) -> Iterator[Store]:
    """The store, to be read; an empty one that leaves nothing behind where there is none."""
    import tempfile

    from evalkit.store import DEFAULT_STORE, is_new

    new = is_new(database or DEFAULT_STORE)
    with tempfile.TemporaryDirectory() as folder:
        place = str(Path(folder) / "empty.db") if new else database
        with options.open_store(place, create=new) as store:
            yield store


def _show_plan(suite: Suite, wanted: RunOptions, store: Store) -> None:
    """Prints what would run and what is known, as `evalkit plan` does."""
    from rich.console import Console

    from evalkit.cli.plan import print_jobs
    from evalkit.machine import detect_machine
    from evalkit.runner import check_machine, plan_suite

    check_machine(suite, detect_machine())
    console = Console()
    print_jobs(plan_suite(suite, wanted), store, wanted, console)
    console.print("dry run: nothing was computed or stored", style="dim")


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
    from evalkit.masking import masked
    from evalkit.store import masked as masked_place

    if isinstance(value, str | Path):
        text = str(value)
        # A setting is no place: `tokens=8000` has no secret in it.
        return masked(masked_place(text) if "://" in text else text)
    return [_recorded(item) for item in value] if isinstance(value, list | tuple) else value
