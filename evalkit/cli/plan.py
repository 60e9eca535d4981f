"""`evalkit plan`: what a run would do, and what is already known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from evalkit.cli import options

if TYPE_CHECKING:
    from pathlib import Path

    from evalkit.plan import Plan
    from evalkit.store import Store


def register(app: typer.Typer) -> None:
    """Adds the verb to the command line."""
    app.command(epilog="Example: evalkit plan suites/quickstart.yaml")(plan)


def plan(
    suite: options.SuiteFile,
    overrides: options.Overrides = None,
    database: options.Database = None,
    cache: options.CacheFolder = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Show the jobs that a run would execute, and the results that it would reuse."""
    from rich.console import Console
    from rich.table import Table

    from evalkit.machine import detect_machine
    from evalkit.paths import describe
    from evalkit.runner import RunOptions, check_machine, plan_suite

    loaded = options.read_suite(suite, overrides)
    check_machine(loaded, detect_machine())
    folder = options.cache_folder(cache)
    planned = plan_suite(loaded, RunOptions(folder, trust_remote_code=trust_remote_code))
    table = Table("job", "path", "state", box=None)
    digests, trained = _trained(planned, folder)
    for job in planned.training:
        table.add_row(job.name, "", trained[job.adapter])
    store = options.open_store(database, create=True)
    for scoring in planned.scoring:
        state = _state(planned, scoring.variant.name, digests, store)
        table.add_row(scoring.name, describe(scoring.variant.path), state)
    Console().print(table)


def _trained(planned: Plan, cache: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Digests of the adapters that are there, and for each a word on its state."""
    from evalkit.sources import find_trained_adapter

    known = {job.adapter: find_trained_adapter(cache, job.recipe_key) for job in planned.training}
    digests = {name: source.digest for name, source in known.items() if source is not None}
    states = {name: "trained already" if source else "to train" for name, source in known.items()}
    return planned.adapter_digests(digests), states


def _state(planned: Plan, variant: str, digests: dict[str, str], store: Store) -> str:
    from evalkit.reuse import find_stored

    job = next(job for job in planned.scoring if job.variant.name == variant)
    if any(adapter not in digests for adapter in job.adapters):
        return "to score, after training"
    keys = planned.reuse_keys(job, digests)
    found = find_stored(store, keys)
    if not found.missing:
        return f"stored (run {found.run})"
    return f"to score: {', '.join(found.missing)}"
