"""`evalkit export`: one variant of a run, as a folder that transformers loads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evalkit.cli import options


def register(app: typer.Typer) -> None:
    """Adds the verb to the command line."""
    app.command(epilog="Example: evalkit export fp16-merged-nf4 ./model")(export)


def export(
    variant: Annotated[str, typer.Argument(help="A variant of the run, by name.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that is not there yet.")],
    run: Annotated[
        str, typer.Option("--run", metavar="RUN", help="The run it is from.")
    ] = "latest",
    database: options.Database = None,
    cache: options.CacheFolder = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Write a variant as a folder for `from_pretrained`. It scores the same."""
    from rich.console import Console

    from evalkit.cli.progress import watch
    from evalkit.runner import RunOptions, export_variant

    record = options.open_store(database).load_run(run)
    run_options = RunOptions(options.cache_folder(cache), trust_remote_code=trust_remote_code)
    with watch(Console(stderr=True)) as watcher:
        export_variant(record, variant, folder, run_options, on_progress=watcher.on_progress)
    Console().print(f"Wrote {variant} of run {record.id} to {folder}", highlight=False)
