"""`evalkit plan`: what a run would do, what is already known, and what its gates could see."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from evalkit.cli import options

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from evalkit.judging.outlook import Basis
    from evalkit.plan import Plan
    from evalkit.plan_jobs import ReferenceJob, RepeatJob, ScoreJob
    from evalkit.runner import RunOptions
    from evalkit.store import Store
    from evalkit.weights.building import BuildContext

Row = tuple[str, str, str, str]


def register(app: typer.Typer) -> None:
    """Adds the verb to the command line."""
    app.command(epilog="Example: evalkit plan suites/quickstart.yaml")(plan)


def plan(
    suite: options.SuiteFile,
    overrides: options.Overrides = None,
    pilot: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=2,
            help="Score what gates compare on the first N documents, to learn how they scatter. "
            "Trains nothing and keeps nothing.",
        ),
    ] = None,
    aa: options.MeasureNoise = None,
    database: options.Database = None,
    cache: options.CacheFolder = None,
    trust_remote_code: options.TrustRemoteCode = False,
) -> None:
    """Show a run's jobs, and the smallest change that its gates see.

    Nothing is computed; of what is stored already, it says in which run.
    """
    from rich.console import Console

    from evalkit.machine import detect_machine
    from evalkit.runner import RunOptions, check_machine, plan_suite

    loaded = options.read_suite(suite, overrides)
    check_machine(loaded, detect_machine())
    wanted = RunOptions(options.cache_folder(cache), trust_remote_code=trust_remote_code, noise=aa)
    planned = plan_suite(loaded, wanted)
    store = options.open_store(database, create=True)
    print_jobs(planned, store, wanted, Console())
    if loaded.gates:
        _print_gates(planned, store, wanted, pilot, console=Console())


# ----------------------------------------------------------------------------- jobs


def print_jobs(planned: Plan, store: Store, wanted: RunOptions, console: Console) -> None:
    """Prints each job of a plan: its path, its memory, and what is known of it already.

    Args:
        planned: the run's.
        store: where to look.
        wanted: how the run would be asked for.
        console: where to print.
    """
    from rich.table import Table

    from evalkit.weights.fitting import is_measurable

    context = _context(planned, wanted.cache)
    table = Table("job", "path", "memory", "state", box=None, pad_edge=False)
    table.columns[2].justify = "right"
    for row in _rows(planned, store, wanted, context):
        table.add_row(*row)
    console.print(table)
    console.print("memory: estimated peak of the whole process on one device", style="dim")
    if not is_measurable(context):
        console.print(
            "memory is not known before the GGUF file is converted, or over several devices",
            style="dim",
        )


def _rows(planned: Plan, store: Store, wanted: RunOptions, context: BuildContext) -> Iterator[Row]:
    from evalkit.paths import describe
    from evalkit.weights.fitting import training_bytes, variant_bytes

    digests = _digests(planned, wanted.cache)
    # What is computed again leaves nothing known but the adapters that are ready-made.
    known = planned.adapter_digests({}) if wanted.force else digests
    for job in (*planned.training, *planned.retraining):
        state = "trained already" if job.yields in known else "to train"
        yield job.name, "", _memory(training_bytes(job.spec, context)), state
    if planned.reference is not None:
        needed = wanted.force or _is_reference_needed(planned, digests, store)
        yield _reference_row(planned.reference, context, needed=needed)
    for scoring in planned.scoring:
        path = scoring.variant.path
        state = _state(planned, scoring, known, store, force=wanted.force)
        yield scoring.name, describe(path), _memory(variant_bytes(path, context)), state
    for left_out in planned.left_out.scoring:
        state = f"left out; {_state(planned, left_out, digests, store)}"
        yield left_out.name, describe(left_out.variant.path), "", state
    for repeat in planned.repeats:
        path = repeat.job.variant.path
        state = _repeat_state(planned, repeat, known, store, force=wanted.force)
        yield repeat.name, repeat.label, _memory(variant_bytes(path, context)), state


def _is_reference_needed(planned: Plan, digests: Mapping[str, str], store: Store) -> bool:
    """Whether any variant's divergence is not stored yet."""
    from evalkit.records import DIVERGENCE

    for job in planned.scoring:
        if planned.diverges(job):
            known = all(adapter in digests for adapter in job.adapters)
            key = planned.reuse_keys(job, digests).get(DIVERGENCE) if known else None
            if key is None or store.find_score(key) is None:
                return True
    return False


def _reference_row(reference: ReferenceJob, context: BuildContext, *, needed: bool) -> Row:
    """The reference of divergence: what it writes is known before it runs."""
    from evalkit.paths import describe
    from evalkit.scoring.log_probs import reference_bytes
    from evalkit.weights.fitting import variant_bytes, vocabulary

    path, spec = reference.job.variant.path, reference.spec
    state = "beside each variant" if needed else "not needed: every divergence is stored"
    if needed and not spec.lockstep:
        words = vocabulary(context)
        size = "?" if words is None else _memory(reference_bytes(spec.tokens, words))
        state = f"to write at most {size}, deleted after the run"
    return reference.name, describe(path), _memory(variant_bytes(path, context)), state


def _context(planned: Plan, cache: Path) -> BuildContext:
    from evalkit.running.job_tasks import build_context

    ready = {name: source.folder for name, source in planned.sources.adapters.items()}
    return build_context(planned, cache, ready)


def _memory(needed: int | None) -> str:
    from evalkit.machine import readable_bytes

    return "?" if needed is None else readable_bytes(needed)


def _digests(planned: Plan, cache: Path) -> dict[str, str]:
    """Of the adapters that are there, by `TrainJob.yields` or their name."""
    from evalkit.sources import find_trained_adapter

    jobs = (*planned.training, *planned.retraining, *planned.left_out.training)
    known = {job.yields: find_trained_adapter(cache, job.recipe_key) for job in jobs}
    return planned.adapter_digests({n: source.digest for n, source in known.items() if source})


def _state(
    planned: Plan,
    job: ScoreJob,
    digests: Mapping[str, str],
    store: Store,
    *,
    force: bool = False,
) -> str:
    if any(adapter not in digests for adapter in job.adapters):
        return "to score, after training"
    keys = planned.reuse_keys(job, digests)
    return _known(store, keys, force=force, tokens=planned.tokens_asked)


def _repeat_state(
    planned: Plan, repeat: RepeatJob, digests: Mapping[str, str], store: Store, *, force: bool
) -> str:
    from evalkit.running.repeats import repeat_keys

    drawn = {name: job.yields for name, job in repeat.training.items()}
    attached = {name: digests.get(drawn.get(name, name)) for name in repeat.job.adapters}
    known = {name: digest for name, digest in attached.items() if digest is not None}
    if len(known) < len(attached):
        return "to score, after training"
    return _known(store, repeat_keys(planned, repeat, known), force=force)


def _known(
    store: Store,
    keys: Mapping[str, str],
    *,
    force: bool,
    tokens: Mapping[str, int] | None = None,
) -> str:
    from evalkit.running.reuse import StoredNumbers, find_stored

    found = StoredNumbers(keys) if force else find_stored(store, keys, tokens)
    if not found.missing:
        return f"stored (run {found.run})"
    return f"to score: {', '.join(found.missing)}"


# ----------------------------------------------------------------------------- gates


def _print_gates(
    planned: Plan, store: Store, wanted: RunOptions, pilot: int | None, *, console: Console
) -> None:
    from rich.markup import escape
    from rich.table import Table

    from evalkit.judging.outlook import outlooks
    from evalkit.report.outlook_text import outlook_row
    from evalkit.running.floors import refused, stored_floors

    bases = _bases(planned, store, wanted, pilot)
    found = outlooks(planned.suite.gates, bases)
    table = Table("gate", "sees", "an unchanged model passes", "from", box=None, pad_edge=False)
    for outlook in found:
        row = outlook_row(outlook)
        table.add_row(*map(escape, (row.gate, row.sees, row.unchanged, row.basis or "–")))
    console.print()
    console.print(table)
    console.print("sees: called REGRESSED with 80 % power, if it is the only gate", style="dim")
    for problem in (
        [] if wanted.noise == "score" else refused(planned, stored_floors(planned, store))
    ):
        console.print(f"a run would stop: {problem}", style="red", markup=False, highlight=False)
    if any(not outlook.basis for outlook in found):
        console.print(
            f"Nothing is stored for some gates: run the suite, or `evalkit plan "
            f"{planned.suite.place} --pilot 20` scores what is trained on 20 documents",
            style="dim",
            highlight=False,
        )


def _bases(planned: Plan, store: Store, wanted: RunOptions, pilot: int | None) -> list[Basis]:
    from evalkit.baselines.choice import choose_baseline
    from evalkit.running.pilot import run_pilot, stored_bases

    baseline = choose_baseline(store, planned.suite.name, None).baseline
    bases = list(stored_bases(planned, store, baseline))
    if pilot is None:
        return bases
    from rich.console import Console

    from evalkit.cli.progress import watch
    from evalkit.executors.local import LocalExecutor

    digests = _digests(planned, wanted.cache)
    with watch(Console(stderr=True)) as watcher:
        measured = run_pilot(
            planned,
            wanted,
            pilot,
            untrained={job.adapter for job in planned.training if job.yields not in digests},
            baseline=baseline,
            executor=LocalExecutor(owns_process=True),
            watcher=watcher,
        )
    return bases if measured is None else [measured, *bases]
