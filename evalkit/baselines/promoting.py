"""What a baseline asks of a run, and what changed since it was promoted. Pure."""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any, Final

from evalkit.errors import UsageError
from evalkit.records import BASELINE, Baseline, Gate, JsonObject, RunRecord, Verdict
from evalkit.store import masked

__all__ = [
    "DEFAULT_BASELINE",
    "baseline_facts",
    "check_baseline_name",
    "environment_changes",
    "failed_gates",
    "failed_jobs",
    "gate_words",
    "missing_scores",
    "promote_command",
    "relaxed_budgets",
    "source_changes",
]

DEFAULT_BASELINE: Final = "main"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}")
_FROM_ENVIRONMENT = '"$EVALKIT_DB"'
_BROKEN = ("failed", "cancelled")
_NOTHING: Mapping[str, Any] = {}
_DIGEST = 12
"""Characters of a digest or a revision that tell it apart."""


def check_baseline_name(name: str) -> str:
    """The name, where it can be one.

    Raises:
        UsageError: it cannot, or it would be taken for a file's.
    """
    if not _NAME.fullmatch(name) or name.lower().endswith(".json"):
        allowed = "letters, digits, _ . + -, at most 64, not ending in .json"
        raise UsageError(f"{name!r} is no name for a baseline (allowed: {allowed})")
    return name


def promote_command(run_id: str, *, name: str = DEFAULT_BASELINE, database: str | None) -> str:
    """The command line that makes a run the baseline.

    Args:
        run_id: the run.
        name: the baseline's.
        database: what `--db` or `EVALKIT_DB` said; None where neither was given. A URL with a
            password in it is not repeated.
    """
    words = ["evalkit", "baseline", "promote", run_id]
    if name != DEFAULT_BASELINE:
        words += ["--name", name]
    command = shlex.join(words)
    if database is None:
        return command
    secret = masked(database) != database
    return f"{command} --db {_FROM_ENVIRONMENT if secret else shlex.quote(database)}"


# ------------------------------------------------------------------------- promoting


def failed_gates(record: RunRecord) -> tuple[str, ...]:
    """The gates that are not ok, each with its verdict, but those that promoting itself mends.

    A gate against the baseline that found none is MISSING: that is what the first run is like, and
    no failure of it.
    """
    if record.gates and not record.verdicts:
        return ("its gates were never judged",)
    return tuple(
        f"{gate_words(verdict.gate)} is {verdict.verdict}"
        for verdict in record.verdicts
        if not verdict.ok and not _lacks_only_a_baseline(record, verdict)
    )


def failed_jobs(record: RunRecord) -> tuple[str, ...]:
    """Why the run is not whole: jobs that failed, or an end that it never reached."""
    jobs = [*record.adapters, *(variant.job for variant in record.variants)]
    ended = [job for job in jobs if job is not None]
    failed = [f"the job '{job.name}' {job.status}" for job in ended if job.status in _BROKEN]
    unscored = [f"{v.name} was not scored" for v in record.variants if v.job is None]
    if record.exit_code is None:
        return ("it has not ended", *failed, *unscored)
    if record.exit_code == 130:
        return ("it was interrupted", *failed, *unscored)
    return (*failed, *unscored)


def missing_scores(record: RunRecord) -> tuple[str, ...]:
    """Gated scores that the run does not have: without them it is no baseline, forced or not."""
    scores = {variant.name: variant.scores for variant in record.variants}
    absent = (
        f"{gate.metric} of {gate.variant}"
        for gate in record.gates
        if gate.metric not in scores.get(gate.variant, {})
    )
    return tuple(dict.fromkeys(absent))


def _lacks_only_a_baseline(record: RunRecord, verdict: Verdict) -> bool:
    gate = verdict.gate
    return (
        gate.against == BASELINE
        and verdict.verdict == "MISSING"
        and any(v.name == gate.variant and gate.metric in v.scores for v in record.variants)
    )


# -------------------------------------------------------------------- since then


def baseline_facts(
    baseline: Baseline, gates: Sequence[Gate], provenance: JsonObject, *, place: str = ""
) -> JsonObject:
    """What a run keeps of the baseline it was judged by, as JSON.

    Args:
        baseline: the baseline.
        gates: the run's.
        provenance: the run's.
        place: the file that the baseline was read from; empty where it is the store's own.
    """
    return {
        "name": baseline.name,
        "suite": baseline.suite,
        "run": baseline.run,
        "promoted": baseline.promoted,
        "forced": baseline.forced,
        "place": place,
        "relaxed": list(relaxed_budgets(gates, baseline.gates)),
        "sources": list(source_changes(baseline.provenance, provenance)),
        "differs": list(environment_changes(baseline.provenance, provenance)),
    }


def relaxed_budgets(gates: Sequence[Gate], baseline_gates: Sequence[Gate]) -> tuple[str, ...]:
    """Every way in which gates promise less than a baseline's did, in the baseline's order.

    Gates on the same metric, variant, reference and side are matched, the strictest with the
    strictest. What was tightened is not told.

    Returns:
        'perplexity of nf4 against fp16: budget relaxed 1 % → 3 %', one a gate.
    """
    now: dict[tuple[object, ...], list[Gate]] = defaultdict(list)
    then: dict[tuple[object, ...], list[Gate]] = defaultdict(list)
    for found, listed in ((now, gates), (then, baseline_gates)):
        for gate in listed:
            found[gate.metric, gate.variant, gate.against, _side(gate)].append(gate)
    told: list[str] = []
    for key, old_gates in then.items():
        pairs = zip_longest(
            sorted(old_gates, key=_looseness), sorted(now.get(key, []), key=_looseness)
        )
        for old, new in pairs:
            changes = _relaxed(old, new) if old is not None else []
            if old is not None and changes:
                told.append(f"{gate_words(old)}: {', '.join(changes)}")
    return tuple(told)


def environment_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, ...]:
    """What may move a number and is neither weights, data nor suite: 'torch 2.13.0 → 2.14.0'.

    Args:
        old: provenance of a run or a baseline.
        new: that of the other. What only one of them recorded is not compared.
    """
    told: list[str] = []
    for label, key in (("device", "device_name"), ("driver", "driver"), ("threads", "threads")):
        told += _change(label, old, new, key)
    dtypes = old.get("effective_dtypes") or _NOTHING, new.get("effective_dtypes") or _NOTHING
    for dtype in sorted({*dtypes[0], *dtypes[1]}):
        told += _change(f"{dtype} computed in", *dtypes, dtype)
    told += _change("Python", old, new, "python")
    packages = old.get("packages") or _NOTHING, new.get("packages") or _NOTHING
    for package in sorted({*packages[0], *packages[1]}):
        told += _change(package, *packages, package)
    return tuple(told)


def source_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, ...]:
    """What else than the suite two runs were made from: code, weights, data, tasks.

    Args:
        old: provenance of a run or a baseline.
        new: that of the other. Weights and data are compared by the digests of their content.
    """
    revisions = [_revision(side.get("git")) for side in (old, new)]
    told = [f"git revision {' → '.join(revisions)}"] if revisions[0] != revisions[1] else []
    digests = [side.get("model_digest") for side in (old, new)]
    if None not in digests and digests[0] != digests[1]:
        origins = [side.get("model") for side in (old, new)]
        moved = None not in origins and origins[0] != origins[1]
        named = f"{origins[0]} → {origins[1]}, " if moved else ""
        told.append(f"weights {named}digest {' → '.join(str(d)[:_DIGEST] for d in digests)}")
    for key in ("data", "tasks"):
        before, after = (side.get(key) or _NOTHING for side in (old, new))
        for name in sorted({*before, *after}):
            was, is_now = ((side.get(name) or _NOTHING).get("digest") for side in (before, after))
            noun = f"{key.removesuffix('s')} {name}"
            if was is not None and is_now is not None and was != is_now:
                told.append(f"{noun} {str(was)[:_DIGEST]} → {str(is_now)[:_DIGEST]}")
            elif was != is_now:
                told.append(f"{noun} {'added' if was is None else 'left out'}")
    return tuple(told)


def _revision(git: object) -> str:
    if not isinstance(git, Mapping) or not git.get("revision"):
        return "none"
    return str(git["revision"])[:_DIGEST] + (" with changes" if git.get("dirty") else "")


def gate_words(gate: Gate) -> str:
    """'perplexity of nf4 against fp16'."""
    against = "" if gate.against is None else f" against {gate.against}"
    return f"{gate.metric} of {gate.variant}{against}"


def _change(label: str, old: Mapping[str, Any], new: Mapping[str, Any], key: str) -> list[str]:
    if key not in old or key not in new or old[key] == new[key]:
        return []
    was, is_now = (side[key] or "none" for side in (old, new))
    return [f"{label} {was} → {is_now}"]


def _relaxed(old: Gate, new: Gate | None) -> list[str]:
    if new is None:
        return [f"gate removed (it allowed {_limit_words(old)})"]
    told = []
    was, is_now = _limit_words(old), _limit_words(new)
    if _unit(old) != _unit(new):
        told.append(f"budget changed to another unit, {was} → {is_now}")
    elif _looseness(new) > _looseness(old):
        noun = "limit" if old.against is None else "budget"
        told.append(f"{noun} relaxed {was} → {is_now}")
    if new.expect is not None and old.expect is None:
        told.append(f"`expect: {new.expect}` added")
    if new.inconclusive == "warn" and old.inconclusive == "fail":
        told.append("`inconclusive: warn` added")
    return told


def _side(gate: Gate) -> str:
    sides = ("max_increase", "max_decrease", "minimum", "maximum")
    return next((side for side in sides if getattr(gate, side) is not None), "")


def _unit(gate: Gate) -> str:
    budget = gate.max_increase or gate.max_decrease
    return "" if budget is None else budget.unit


def _looseness(gate: Gate) -> float:
    """Grows with what a gate lets pass; comparable between gates of one side and unit."""
    budget = gate.max_increase or gate.max_decrease
    if budget is not None:
        return budget.amount
    if gate.minimum is not None:
        return -gate.minimum
    return gate.maximum if gate.maximum is not None else 0.0


def _limit_words(gate: Gate) -> str:
    budget = gate.max_increase or gate.max_decrease
    if budget is not None:
        return str(budget)
    if gate.minimum is not None:
        return f"at least {gate.minimum:g}"
    return f"at most {gate.maximum:g}"
