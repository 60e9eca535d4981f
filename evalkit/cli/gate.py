"""`evalkit gate`: judge a stored run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evalkit.cli import options
from evalkit.cli.outputs import Outputs, show_run


def register(app: typer.Typer) -> None:
    """Adds the verb to the command line."""
    app.command(epilog="Example: evalkit gate latest --suite suites/quickstart.yaml")(gate)


def gate(
    run: options.RunId = "latest",
    suite: Annotated[
        Path | None,
        typer.Option("--suite", metavar="FILE", help="Judge by this suite's gates, not the run's."),
    ] = None,
    baseline: options.BaselineChoice = None,
    json_file: options.JsonFile = None,
    junit_file: options.JunitFile = None,
    markdown_file: options.MarkdownFile = None,
    database: options.Database = None,
) -> None:
    """Judge a stored run again, from its stored scores. The stored verdicts stay as they are.

    Exit code: 0 every gate is ok · 1 a gate is not ok · 3 a job of the run had failed.
    """
    from dataclasses import replace

    from evalkit.baselines.choice import baseline_of_run
    from evalkit.runner import verdicts_of

    outputs = Outputs(json_file, junit_file, markdown_file)
    outputs.check()
    store = options.open_store(database)
    record = store.load_run(run)
    if suite is not None:
        record = replace(record, gates=options.read_suite(suite, None).gates)
    chosen = baseline_of_run(store, record, baseline)
    promote = chosen.promote_command(record.id, database)
    verdicts, code = verdicts_of(record, baseline=chosen.baseline, promote=promote)
    facts = chosen.facts(record.gates, record.provenance)
    record = replace(record, provenance={**record.provenance, "baseline": facts})
    judged = replace(record, verdicts=verdicts, exit_code=code)
    show_run(judged, outputs, to_github=True)
    raise typer.Exit(code)
