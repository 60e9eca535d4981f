"""A suite's straight line: resolve, plan, train, score, record, judge."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from evalkit.baselines.choice import ChosenBaseline, bootstrap_baseline, choose_baseline
from evalkit.errors import MachineError, StoreError, UsageError
from evalkit.executors.tasks import Executor
from evalkit.judging.evidence import evidence_of
from evalkit.judging.gates import exit_code as gates_exit_code
from evalkit.judging.gates import judge
from evalkit.judging.noise import Floors, floors_json
from evalkit.machine import Machine, detect_machine, package_versions, readable_bytes
from evalkit.masking import masked, masked_json
from evalkit.plan import Plan, make_plan
from evalkit.plan_keys import SOME_PACKAGES, TASK_PACKAGES, TRAINING_PACKAGES, Environment
from evalkit.provenance import gather
from evalkit.records import Baseline, OnProgress, RunRecord, Verdict
from evalkit.running.floors import check_gates, stored_floors
from evalkit.running.job_tasks import build_context
from evalkit.running.jobs import JobDriver
from evalkit.running.leakage import leakage_facts
from evalkit.running.options import RunOptions, Watcher
from evalkit.running.repeat_jobs import RepeatDriver
from evalkit.running.repeats import seed_of, with_repeats
from evalkit.running.reuse import planned_variants
from evalkit.running.selection import check_only, narrow
from evalkit.sources import download, find_trained_adapter, is_downloaded, is_local, resolve
from evalkit.store import Store
from evalkit.suite import Suite, suite_from_json
from evalkit.tasks.sources import check_trusted

__all__ = [
    "RunOptions",
    "Watcher",
    "check_download",
    "check_machine",
    "export_variant",
    "plan_suite",
    "run_suite",
    "verdicts_of",
]

_FAILURES = (2, 4, 3)
"""Exit codes of jobs that failed, the one that is told first."""


def run_suite(
    suite: Suite,
    options: RunOptions,
    *,
    store: Store,
    executor: Executor,
    watcher: Watcher,
) -> RunRecord:
    """Runs a suite to its verdicts. Every result is stored before anything judges it.

    Returns:
        The run as the store has it, with its exit code.

    Raises:
        EvalkitError: nothing could start. Once jobs run, their errors are in the record.
        KeyboardInterrupt: after what was done is recorded.
    """
    chosen = choose_baseline(store, suite.name, options.baseline)
    check_machine(suite, detect_machine())
    check_download(suite, detect_machine())
    plan = plan_suite(suite, options)
    started = time.perf_counter()
    floors = stored_floors(plan, store)
    if options.noise != "score":
        check_gates(plan, floors)
    run_id = _start(plan, options, store, chosen, floors)
    driver = JobDriver(run_id, plan, options, store=store, executor=executor, watcher=watcher)
    repeats = RepeatDriver(
        run_id, plan, options, driver=driver, store=store, executor=executor, watcher=watcher
    )
    watcher.started(run_id, plan)
    try:
        driver.run(plan.training, plan.scoring)
        repeats.run()
        driver.take_left_out(plan.left_out)
        repeats.take_left_out()
    except KeyboardInterrupt:
        store.finish_run(run_id, seconds=time.perf_counter() - started, exit_code=130)
        raise
    record = _judge(run_id, chosen, driver.codes, store=store, options=options)
    seconds = time.perf_counter() - started
    store.finish_run(run_id, seconds=seconds, exit_code=record.exit_code or 0)
    return replace(record, seconds=seconds)


def plan_suite(suite: Suite, options: RunOptions) -> Plan:
    """Resolves and plans a suite for this machine."""
    if suite.model.trust_remote_code and not options.trust_remote_code:
        raise UsageError(
            f"{suite.place}: model.trust_remote_code: this suite wants to run code that comes with "
            "its model. Only the command line may allow that: add --trust-remote-code"
        )
    check_only(suite, options.only)
    environment = Environment(
        machine=detect_machine(),
        versions=package_versions((*TRAINING_PACKAGES, *TASK_PACKAGES, *SOME_PACKAGES)),
        trust_remote_code=options.trust_remote_code,
    )
    sources = resolve(suite, options.cache)
    check_trusted(sources.tasks, trusted=options.trust_remote_code)
    plan = narrow(make_plan(suite, sources, environment), options.only)
    return with_repeats(plan, options.noise)


def check_machine(suite: Suite, machine: Machine) -> None:
    """Stops before any network or loading where `requires:` asks for more than is here.

    Raises:
        MachineError: with what is needed, what is there, and the smaller suite to run.
    """
    needs = suite.requires
    if needs is None:
        return
    lacks = []
    if needs.device is not None and needs.device != machine.device:
        lacks.append(f"device {needs.device} (this machine has {machine.device}: {machine.name})")
    if needs.memory is not None and needs.memory > machine.memory:
        lacks.append(
            f"{readable_bytes(needs.memory)} of {needs.device or machine.device} memory "
            f"(there is {readable_bytes(machine.memory)})"
        )
    if lacks:
        instead = f". On a smaller machine run {needs.instead}" if needs.instead else ""
        raise MachineError(f"{suite.place}: needs {' and '.join(lacks)}{instead}")


def check_download(suite: Suite, machine: Machine) -> None:
    """Stops before a hub's weights are fetched where the configuration says that none will fit.

    Raises:
        MachineError: with what is needed and what is there.
        NetworkError: the hub cannot be asked.
    """
    source = suite.model.source
    if source.startswith("package:") or is_local(source):
        return
    if is_downloaded(source, suite.model.revision):
        return
    from evalkit.weights.fitting import check_any_fits

    check_any_fits(suite, download(source, suite.model.revision, ("config.json",)), machine)


def verdicts_of(
    record: RunRecord,
    *,
    job_codes: Sequence[int] = (),
    baseline: Baseline | None = None,
    promote: str = "",
) -> tuple[tuple[Verdict, ...], int]:
    """Judges a run's stored scores against its gates.

    Args:
        record: a run as the store has it.
        job_codes: exit codes of jobs that failed; where they are not known any more, a failed job
            counts as 3.
        baseline: what gates with `against: baseline` are judged by.
        promote: the command that promotes this run, for gates that find no baseline.

    Returns:
        One verdict for each gate, and the exit code: 2, 4 and 3 of failed jobs come before 1.
    """
    evidence = evidence_of(record, baseline=baseline, promote=promote)
    verdicts = judge(record.gates, evidence)
    others = (*record.adapters, *record.references)
    failed = [*evidence.errors, *(job.name for job in others if job.error is not None)]
    failures = {*job_codes, *(3 for _ in failed)}
    worst = next((code for code in _FAILURES if code in failures), None)
    return verdicts, gates_exit_code(verdicts) if worst is None else worst


def export_variant(
    record: RunRecord,
    variant: str,
    folder: Path,
    options: RunOptions,
    *,
    on_progress: OnProgress,
) -> None:
    """Builds one variant of a stored run again and writes it as a folder.

    Raises:
        UsageError: no such variant, or the folder is in use.
        StoreError: the run's adapter is not in the cache any more.
    """
    from evalkit.weights.export import save_variant
    from evalkit.weights.steps import build_variant

    names = [candidate.name for candidate in record.variants]
    if variant not in names:
        raise UsageError(
            f"run {record.id} has no variant {variant!r} (allowed: {', '.join(names)})"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: is there already and not empty; name a new folder")
    suite = suite_from_json(record.suite_json, place=record.place)
    plan = plan_suite(suite, options)
    job = next(job for job in plan.scoring if job.variant.name == variant)
    folders = {name: source.folder for name, source in plan.sources.adapters.items()}
    for training in plan.training:
        if training.adapter not in job.adapters:
            continue
        known = find_trained_adapter(options.cache, training.recipe_key)
        if known is None:
            raise StoreError(
                f"the adapter {training.adapter} of run {record.id} is not in {options.cache} "
                "any more; run the suite again, then export"
            )
        folders[training.adapter] = known.folder
    context = build_context(plan, options.cache, folders)
    built = build_variant(
        job.variant.path, context, job=f"export {variant}", on_progress=on_progress
    )
    save_variant(built, folder)


def _judge(
    run_id: str,
    chosen: ChosenBaseline,
    job_codes: Sequence[int],
    *,
    store: Store,
    options: RunOptions,
) -> RunRecord:
    """Judges what is stored and stores the verdicts; promotes a first run where that is asked for.

    Returns:
        The run with its verdicts and its exit code, which is not stored yet.
    """
    record = store.load_run(run_id)
    promote = chosen.promote_command(run_id, options.database)
    verdicts, code = verdicts_of(
        record, job_codes=job_codes, baseline=chosen.baseline, promote=promote
    )
    store.record_verdicts(run_id, verdicts)
    record = replace(record, verdicts=verdicts, exit_code=code)
    if not options.bootstrap:
        return record
    first = bootstrap_baseline(store, record, chosen, code)
    if first is chosen:
        return record
    store.note_baseline(run_id, first.facts(record.gates, record.provenance) or {})
    return _judge(run_id, first, job_codes, store=store, options=options)


def _start(
    plan: Plan, options: RunOptions, store: Store, chosen: ChosenBaseline, floors: Floors
) -> str:
    suite = plan.suite
    seeds = {job.yields: seed_of(job) for job in (*plan.training, *plan.retraining)}
    provenance = gather(
        plan.environment.machine, suite_folder=Path(suite.place).absolute().parent, seeds=seeds
    )
    provenance["source_precision"] = plan.sources.weights.precision
    provenance["model"] = plan.sources.weights.origin
    provenance["model_digest"] = plan.sources.weights.digest
    provenance["data"] = {
        name: {"origin": corpus.origin, "digest": corpus.digest}
        for name, corpus in plan.sources.corpora.items()
    }
    provenance["tasks"] = {
        name: {"origin": task.origin, "digest": task.digest}
        for name, task in plan.sources.tasks.items()
    }
    if options.only:
        provenance["only"] = [job.variant.name for job in plan.scoring]
    provenance["leakage"] = leakage_facts(plan, options.cache)
    provenance["noise_floors"] = floors_json(floors)
    provenance["baseline"] = chosen.facts(suite.gates, provenance)
    return store.start_run(
        suite=suite.name,
        suite_text=masked(suite.text),
        suite_json=masked_json(suite.to_json()),
        place=suite.place,
        arguments=masked_json(options.arguments),
        provenance=masked_json(provenance),
        gates=suite.gates,
        variants=planned_variants(plan),
    )
