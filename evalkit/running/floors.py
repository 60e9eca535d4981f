"""Noise floors between runs: what the store knows for a plan, and the gates that it rules out."""

from __future__ import annotations

from collections.abc import Iterable

from evalkit.digests import digest_json
from evalkit.errors import Problem, SuiteError
from evalkit.judging.noise import Floors, floor_under, own_floors, refusal
from evalkit.plan import Plan, task_key
from evalkit.plan_jobs import ScoreJob
from evalkit.records import NoiseFloor
from evalkit.store import Store


def stored_floors(plan: Plan, store: Store) -> Floors:
    """The newest floor under every number of a plan that was measured under its circumstances."""
    floors: dict[str, dict[str, NoiseFloor]] = {}
    for job in plan.every_variant:
        metrics = {*plan.suite.metrics.perplexity, *(gate.metric for gate in plan.suite.gates)}
        keys = _keys(plan, job, metrics)
        known = {metric: store.find_noise_floor(key) for metric, key in keys.items()}
        floors[job.variant.name] = {metric: floor for metric, floor in known.items() if floor}
    return floors


def check_gates(plan: Plan, floors: Floors) -> None:
    """Stops before any job where a gate asks for more than this machine can tell.

    Raises:
        SuiteError: every such gate, with its budget and the floor.
    """
    problems = refused(plan, floors)
    if problems:
        raise SuiteError(problems)


def refused(plan: Plan, floors: Floors) -> list[Problem]:
    """The gates that ask for more than this machine can tell."""
    problems = []
    for index, gate in enumerate(plan.suite.gates):
        floor = floor_under(gate, floors)
        reason = refusal(gate, floor) if floor is not None else None
        if reason is not None:
            problems.append(Problem(gate.place or plan.suite.place, f"gates.{index}", reason))
    return problems


def store_floors(run_id: str, plan: Plan, store: Store) -> None:
    """Keeps what a run's A/A repeats say, for the runs after it."""
    if not any(repeat.kind == "aa" for repeat in plan.repeats):
        return
    floors = own_floors(store.load_run(run_id))
    keyed = {
        key: floors[job.variant.name][metric]
        for job in plan.scoring
        for metric, key in _keys(plan, job, floors.get(job.variant.name, {})).items()
    }
    for key, floor in keyed.items():
        store.record_noise_floor(key, floor)


def _keys(plan: Plan, job: ScoreJob, metrics: Iterable[str]) -> dict[str, str]:
    """The key of the floor under each metric that a job yields."""
    known, keys = plan.floor_keys(job), dict[str, str]()
    for metric in sorted(metrics):
        task, _, name = metric.partition("/")
        if metric in known:
            keys[metric] = known[metric]
        elif task_key(task) in known:
            keys[metric] = digest_json({"task": known[task_key(task)], "metric": name})
    return keys
