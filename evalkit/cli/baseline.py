"""`evalkit baseline`: the run that later runs are compared with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evalkit.cli import options

if TYPE_CHECKING:
    from evalkit.records import Baseline, RunRecord
    from evalkit.store import Store

commands = typer.Typer(
    help="Promote the run that later runs are compared with; list, show.",
    epilog="Example: evalkit baseline promote latest",
    no_args_is_help=True,
)

_WIDE = 84
"""Columns from which every column of the list is shown."""

Name = Annotated[str, typer.Option("--name", metavar="NAME", help="The baseline's name.")]
SuiteName = Annotated[
    str | None,
    typer.Option("--suite", metavar="NAME", help="The suite, where several have such a baseline."),
]
File = Annotated[Path, typer.Argument(metavar="FILE", help="A JSON file.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Adds the verb to the command line."""
    app.add_typer(commands, name="baseline")


@commands.command(epilog="Example: evalkit baseline promote latest")
def promote(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="A run's id, or its beginning, or 'latest'.", show_default=False
        ),
    ],
    name: Name = "main",
    force: Annotated[
        bool,
        typer.Option("--force", help="Also a run with gates that are not ok; it is recorded."),
    ] = False,
    database: options.Database = None,
) -> None:
    """Make a run the baseline of its suite. Earlier ones stay as history.

    A run with a gate that is not ok, or that is not whole, needs --force; gates that only lack a
    baseline do not count. Exit code: 0 promoted · 2 refused, with the reasons.
    """
    from evalkit.baselines import check_baseline_name

    check_baseline_name(name)
    store = options.open_store(database)
    record = store.load_run(run)
    known = store.find_baseline(record.suite, name)
    if known is not None and known.run == record.id:
        print(f"Run {record.id} is baseline {name} of suite {record.suite} already.")
        return
    forced = _must_be_forced(record, force=force)
    store.promote(record.id, name, forced=forced)
    how = ", by force" if forced else ""
    print(f"Run {record.id} is now baseline {name} of suite {record.suite}{how}.")
    if known is not None:
        print(f"It was run {known.run}, promoted {known.promoted[:10]}.")


@commands.command("list", epilog="Example: evalkit baseline list")
def list_baselines(database: options.Database = None) -> None:
    """List every baseline there was, newest first."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    wide = console.width >= _WIDE
    table = Table("suite", "name", box=None)
    table.add_column("run", no_wrap=True)
    for title in ("promoted (UTC)", "scores", "") if wide else ("promoted", ""):
        table.add_column(title)
    for known in options.open_store(database).list_baselines():
        remarks = ["current" if known.current else "", "forced" if known.forced else ""]
        when = known.promoted.replace("T", " ")[: 19 if wide else 10]
        scores = [f"{known.scores} of {known.variants} variants"] if wide else []
        cells = (
            known.suite,
            known.name,
            known.run,
            when,
            *scores,
            ", ".join(filter(None, remarks)),
        )
        table.add_row(*cells)
    empty = "There are no baselines yet; `evalkit baseline promote latest` makes one."
    console.print(table if table.row_count else empty)


@commands.command(epilog="Example: evalkit baseline show main")
def show(
    name: Annotated[
        str, typer.Argument(metavar="[NAME|FILE]", help="A baseline's name, or an exported file.")
    ] = "main",
    suite: SuiteName = None,
    database: options.Database = None,
) -> None:
    """Show what a baseline holds: its scores, its gates, where it ran."""
    from rich.console import Console

    from evalkit.baselines.file import read_baseline
    from evalkit.report.baseline_view import render_baseline

    is_file = name.lower().endswith(".json")
    found = (
        read_baseline(Path(name))
        if is_file
        else _one_baseline(options.open_store(database), name, suite)
    )
    render_baseline(found, Console())


@commands.command(epilog="Example: evalkit baseline export baselines/quickstart.json")
def export(
    file: File,
    name: Name = "main",
    suite: SuiteName = None,
    database: options.Database = None,
) -> None:
    """Write a baseline as a JSON file, for a repository to commit.

    It is small: it holds sums, counts and hashes of documents, and no text of any of them.
    """
    from evalkit.baselines.file import write_baseline
    from evalkit.machine import readable_bytes

    baseline = _one_baseline(options.open_store(database), name, suite)
    write_baseline(baseline, file)
    size = readable_bytes(file.stat().st_size)
    print(f"Wrote baseline {name} of suite {baseline.suite} (run {baseline.run}): {file}, {size}.")


@commands.command("import", epilog="Example: evalkit baseline import baselines/quickstart.json")
def import_file(file: File, database: options.Database = None) -> None:
    """Read an exported baseline into the store.

    There it is the newest of its suite and name. To compare with a file once,
    `evalkit run --baseline FILE` needs no import.
    """
    from evalkit.baselines.file import read_baseline

    baseline = read_baseline(file)
    is_new = options.open_store(database, create=True).import_baseline(baseline)
    verb = "is now" if is_new else "is already"
    what = f"baseline {baseline.name} of suite {baseline.suite}"
    print(f"Run {baseline.run} {verb} {what}; it was promoted {baseline.promoted[:10]}.")


def _must_be_forced(record: RunRecord, *, force: bool) -> bool:
    """Whether promoting this run takes force.

    Raises:
        UsageError: it may not be promoted, or takes a force that was not given.
    """
    from evalkit.baselines import failed_gates, failed_jobs, missing_scores
    from evalkit.errors import UsageError

    if missing := missing_scores(record):
        what = f"it has no {', no '.join(missing)}, which its gates judge"
        raise UsageError(f"run {record.id} can be no baseline: {what}")
    reasons = [*failed_jobs(record), *failed_gates(record)]
    if reasons and not force:
        listed = "".join(f"\n  {reason}" for reason in reasons)
        raise UsageError(
            f"run {record.id} is not promoted (--force promotes it all the same, and records "
            f"that):{listed}"
        )
    return bool(reasons)


def _one_baseline(store: Store, name: str, suite: str | None) -> Baseline:
    """The newest baseline of this name, of the suite that is named or the only one.

    Raises:
        UsageError: there is none, or several suites have one.
    """
    from evalkit.errors import UsageError

    current = [known for known in store.list_baselines() if known.current]
    found = [k.suite for k in current if k.name == name and suite in (None, k.suite)]
    if len(found) > 1:
        raise UsageError(f"several suites have a baseline {name!r}: add --suite {'|'.join(found)}")
    baseline = store.find_baseline(found[0], name) if found else None
    if baseline is None:
        of = f" of suite {suite}" if suite else ""
        listed = ", ".join(f"{known.name} of {known.suite}" for known in current) or "none"
        raise UsageError(f"no baseline {name!r}{of} (there are: {listed})")
    return baseline
