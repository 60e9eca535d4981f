"""Which metrics a task's definition yields, so that a gate's typing error is found before a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evalkit.errors import Problem
from evalkit.paths import did_you_mean
from evalkit.suite import Suite
from evalkit.tasks.definitions import Definition

_DEFAULTS = {
    "loglikelihood": ("perplexity", "acc"),
    "loglikelihood_rolling": ("word_perplexity", "byte_perplexity", "bits_per_byte"),
    "multiple_choice": ("acc", "acc_norm"),
    "generate_until": ("exact_match",),
}
"""What lm-eval measures where a definition has no `metric_list`."""


def check_gates(suite: Suite, definitions: Mapping[str, Sequence[Definition]]) -> list[Problem]:
    """What is wrong with the metrics of gates on tasks, by what the tasks' definitions say.

    Args:
        suite: with its gates.
        definitions: of each task that was found, by its name in the suite.
    """
    problems = []
    for position, gate in enumerate(suite.gates):
        name, _, metric = gate.metric.partition("/")
        if name not in definitions:
            continue
        known = task_metrics(definitions[name])
        if known is None or metric in known:
            continue
        listed = [f"{name}/{one}" for one in known]
        near = did_you_mean(gate.metric, listed)
        more = ", ..." if len(listed) > 12 else ""
        what = f"task '{name}' has no metric '{metric}'{near}"
        allowed = f"(allowed: {', '.join(listed[:12])}{more})"
        problems.append(Problem(gate.place, f"gates.{position}.metric", f"{what} {allowed}"))
    return problems


def task_metrics(definitions: Sequence[Definition]) -> list[str] | None:
    """The metrics of a task or group: 'acc', 'SUBTASK/acc'; None where Python code names them."""
    leaves = [definition for definition in definitions if definition.kind == "task"]
    if definitions[0].kind == "task" and len(leaves) == 1:
        return _own_metrics(leaves[0])
    found: dict[str, None] = {}
    below: list[str] = []
    for leaf in leaves:
        own = _own_metrics(leaf)
        if own is None:
            return None
        found.update(dict.fromkeys(own))
        below += [f"{leaf.name}/{metric}" for metric in own]
    return [*found, *below]


def _own_metrics(definition: Definition) -> list[str] | None:
    config = definition.config
    if config.get("process_results") is not None or "class" in config:
        return None
    listed = config.get("metric_list")
    if listed is None:
        names = list(_DEFAULTS.get(str(config.get("output_type", "generate_until")), ()))
    else:
        names = [str(entry.get("metric")) for entry in listed if isinstance(entry, Mapping)]
    if any(name.startswith("!function") for name in names):
        return None
    filters = [str(entry.get("name")) for entry in config.get("filter_list") or ()]
    return [*names, *(f"{name}@{filter_}" for filter_ in filters[1:] for name in names)]
