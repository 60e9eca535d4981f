"""What a task needs of a Ray cluster, and what the cluster has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from evalkit.errors import WeightsError
from evalkit.executors.tasks import ScoreTask, Task, TrainTask

Resources = Mapping[str, float]
"""By Ray's names: "CPU", "GPU", and "memory" in bytes."""


def needed(task: Task, threads: int, nodes: Iterable[Resources]) -> dict[str, float]:
    """What a task needs.

    On a GPU one of them and a core; a model that `device_map` spreads has as many as the suite
    says, or all of the largest node's. On a CPU as many cores as the driver computes with threads,
    for another number of them would give other digits, and the memory that is estimated. Ray starts
    nothing that asks for more than a node has, so no more than the largest has is asked for:
    whether it fits is for the worker to say.

    Args:
        task: to be performed.
        threads: that the driver's machine computes with.
        nodes: what each node has.
    """
    context = task.context
    nodes = list(nodes)
    if context.device == "cuda":
        most = max((node.get("GPU", 0.0) for node in nodes), default=1.0)
        spread = context.gpus or max(1.0, most)
        return {"CPU": 1.0, "GPU": float(spread if context.device_map else 1)}
    largest = max((node.get("memory", 0.0) for node in nodes), default=0.0)
    return {"CPU": float(threads), "memory": min(largest, float(_memory(task) or 0))}


def fits(need: Resources, taken: Iterable[Resources], nodes: Iterable[Resources]) -> bool:
    """Whether the cluster as a whole has room for a task beside those that run.

    Where that room is in pieces, Ray keeps the task until one node has enough.
    """
    nodes, taken = list(nodes), list(taken)
    return any(holds(node, need) for node in nodes) and all(
        amount + _total(taken, name) <= _total(nodes, name) for name, amount in need.items()
    )


def holds(node: Resources, need: Resources) -> bool:
    """Whether a node could run a task, were it alone."""
    return all(node.get(name, 0.0) >= amount for name, amount in need.items())


def told(need: Resources) -> str:
    """'2 CPU, 1 GPU'."""
    return ", ".join(f"{amount:g} {name}" for name, amount in need.items() if name != "memory")


def options(need: Resources) -> dict[str, Any]:
    """The same as arguments of Ray's `options`."""
    return {
        "num_cpus": need.get("CPU", 0.0),
        "num_gpus": need.get("GPU", 0.0),
        "memory": int(need.get("memory", 0.0)),
    }


def _total(each: Iterable[Resources], name: str) -> float:
    return sum(one.get(name, 0.0) for one in each)


def _memory(task: Task) -> int | None:
    """The estimate in bytes; None where there is none: the worker will say why."""
    from evalkit.weights.fitting import training_bytes, variant_bytes

    try:
        if isinstance(task, TrainTask):
            return training_bytes(task.spec, task.context)
        found = [variant_bytes(task.path, task.context)]
        if isinstance(task, ScoreTask) and task.divergence and task.divergence.folder is None:
            found.append(variant_bytes(task.divergence.path, task.context))
    except WeightsError:
        return None
    return sum(each or 0 for each in found)
