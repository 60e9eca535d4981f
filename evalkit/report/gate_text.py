"""A gate and its verdict as the lines that a test report shows: the same in every test report."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from evalkit.records import Gate, RunRecord, Verdict
from evalkit.report.facts import job_status
from evalkit.report.view import deciding_p, p_words, shown_effect, size_words
from evalkit.report.words import (
    budget_words,
    clean,
    effect_unit,
    interval_words,
    limit_figure,
    rule_words,
)

Outcome = Literal["passed", "failed", "errored", "warned"]
_PLACE = re.compile(r"(.+):([0-9]+)")


@dataclass(frozen=True)
class FailedJob:
    """A job that came to nothing and that no gate's verdict tells of."""

    name: str
    """'score nf4', 'train tuned'."""
    error: str
    seconds: float


def gate_names(gates: Sequence[Gate]) -> list[str]:
    """A name for each gate, in their order: 'perplexity[merged-4bit vs nf4+adapter]'.

    A name that comes again gets a number: 'perplexity[nf4 vs fp16 #2]'.
    """
    seen: dict[str, int] = {}
    names = []
    for gate in gates:
        label = _label(gate)
        key = f"{gate.metric}[{label}]"
        seen[key] = seen.get(key, 0) + 1
        number = f" #{seen[key]}" if seen[key] > 1 else ""
        names.append(clean(f"{gate.metric}[{label}{number}]").replace("\n", " "))
    return names


def outcome(verdict: Verdict) -> Outcome:
    """What a verdict is to a test runner: a known loss that is there passes."""
    if verdict.warned:
        return "warned"
    if verdict.ok:
        return "passed"
    return "errored" if verdict.verdict == "ERRORED" else "failed"


def headline(verdict: Verdict) -> str:
    """'REGRESSED: merged-4bit: perplexity at most 1 % above nf4+adapter'."""
    gate = verdict.gate
    name: str = verdict.verdict
    if gate.expect == "regressed" and name in {"PASS", "IMPROVED"}:
        name = f"{name}, though `expect: regressed`"
    return clean(f"{name}: {gate.variant}: {rule_words(gate)}").replace("\n", " ")


def figures(run: RunRecord, verdict: Verdict) -> dict[str, str]:
    """What was measured and what was allowed, by name; what there is none of is left out."""
    gate = verdict.gate
    budget = gate.max_increase or gate.max_decrease
    signed = gate.against is not None
    found = {
        "change" if signed else "value": shown_effect(run, verdict),
        "95 % CI": interval_words(verdict, signed=signed, precise=True),
        "budget": budget_words(budget) if budget is not None else _limit(gate),
        "p": deciding_p(verdict).removeprefix("p ").removeprefix("= "),
        "data": size_words(run, verdict),
        "flips": flips_words(verdict),
        "noise floor": _on_scale(verdict, verdict.noise_floor),
        "spread between seeds": _on_scale(verdict, verdict.training_spread),
    }
    return {name: clean(words) for name, words in found.items() if words}


def gate_report(run: RunRecord, verdict: Verdict) -> str:
    """Everything about one verdict as plain lines: promise, message, figures, place."""
    lines = [headline(verdict)]
    if verdict.message:
        lines.append(clean(verdict.message))
    lines += [f"  {name}: {words}" for name, words in figures(run, verdict).items()]
    if verdict.gate.place:
        lines.append(clean(f"  gate: {verdict.gate.place}"))
    return "\n".join(lines)


def flips_words(verdict: Verdict) -> str:
    """'7 gained, 12 lost (exact McNemar p = 0.36)'; empty where nothing is hit or missed."""
    if verdict.gained is None or verdict.lost is None:
        return ""
    words = f"{verdict.gained:,} gained, {verdict.lost:,} lost"
    if verdict.mcnemar_p is not None:
        words += f" (exact McNemar {p_words(verdict.mcnemar_p)})"
    return words


def split_place(place: str) -> tuple[str, int | None]:
    """'suites/a.yaml:41' as file and line; a place without a line number has none."""
    match = _PLACE.fullmatch(place)
    return (match[1], int(match[2])) if match else (place, None)


def gate_place(run: RunRecord, gate: Gate) -> tuple[str, int | None]:
    """The file and line that a gate stands on; the suite's file where `--set` gave it."""
    file, line = split_place(gate.place)
    return (file, line) if line is not None else split_place(run.place)


def failed_jobs(run: RunRecord) -> list[FailedJob]:
    """Jobs that failed, or never ran, apart from those that an ERRORED gate is about."""
    told = {
        name
        for verdict in run.verdicts
        if verdict.verdict == "ERRORED"
        for name in (verdict.gate.variant, verdict.gate.against)
    }
    jobs = [
        FailedJob(job.name, job.error or job.status, job.seconds)
        for job in run.adapters
        if job.status in {"failed", "cancelled"}
    ]
    for variant in run.variants:
        if job_status(variant) == "scored" or variant.name in told:
            continue
        job = variant.job
        error = (job.error or job.status) if job else "the run ended before it was scored"
        jobs.append(FailedJob(f"score {variant.name}", error, job.seconds if job else 0.0))
    return jobs


def _label(gate: Gate) -> str:
    if gate.against is not None:
        return f"{gate.variant} vs {gate.against}"
    return f"{gate.variant} {_limit(gate)}"


def _limit(gate: Gate) -> str:
    if gate.minimum is not None:
        return f"min {limit_figure(gate.metric, gate.minimum)}"
    limit = limit_figure(gate.metric, gate.maximum)
    return f"max {limit}" if limit else ""


def _on_scale(verdict: Verdict, value: float | None) -> str:
    """A figure on the scale of the verdict's effect: '0.12 %'."""
    if value is None:
        return ""
    unit = effect_unit(verdict.gate)
    if unit == "absolute":
        return f"{value:.3g}"
    return f"{value * 100:.2g} {'%' if unit == 'relative' else 'pp'}"
