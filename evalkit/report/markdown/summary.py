"""A run as Markdown for a pull request or a step's summary: the verdict first, the rest folded."""

from __future__ import annotations

from collections.abc import Sequence

from evalkit.records import DIVERGENCE, RunRecord, Verdict
from evalkit.report import facts as records
from evalkit.report.details import flat
from evalkit.report.gate_text import failed_jobs, figures, flips_words, outcome
from evalkit.report.markdown.costs import advice_part, costs_part
from evalkit.report.markdown.details import divergence_part, survival_part
from evalkit.report.markdown.text import block, code, details, prose, table, within
from evalkit.report.notes import notes_of
from evalkit.report.sentence import verdict_sentence
from evalkit.report.view import MetricRow, metric_table
from evalkit.report.words import counted, duration, joined, rule_words

LONGEST = 65_000
"""Characters at most: a comment on a pull request holds 65,536."""

# What each part may fill at most; together under LONGEST.
_GATES, _PROBLEMS, _VARIANTS, _NOTES = 15_000, 7_000, 13_000, 5_000
_DETAILS = 3_000
_MESSAGES, _PROVENANCE = 8_000, 7_000
_MOST_TABLES = 12
_NO_BREAK = "\N{NO-BREAK SPACE}"
_MARKS = {"passed": "✅", "failed": "❌", "errored": "❌", "warned": "⚠️"}


def markdown(run: RunRecord) -> str:
    """A run as GitHub-flavoured Markdown of at most `LONGEST` characters.

    Names, messages and provenance are untrusted: none of them is read as markup, mentions anybody
    or links anywhere.
    """
    parts = [
        f"## {headline(run)}",
        f"**{prose(verdict_sentence(run), longest=1_500)}**",
        advice_part(run),
        _gates(run),
        _problems(run),
        _variants(run),
        costs_part(run),
        _reused(run),
        _notes(run),
        _explanations(run),
        divergence_part(run, budget=_DETAILS),
        survival_part(run, budget=_DETAILS),
        details("Provenance", _provenance(run)),
    ]
    kept = [part for part in parts if part]
    while sum(len(part) + 2 for part in kept) > LONGEST:
        kept.pop()
    return "\n\n".join(kept) + "\n"


def headline(run: RunRecord) -> str:
    """The mark and the shortest answer: '✅ quickstart: all 5 gates are ok'."""
    name = prose(run.suite, longest=80)
    warned = [verdict for verdict in run.verdicts if verdict.warned]
    jobs = failed_jobs(run)
    total = counted(len(run.verdicts), "gate")
    if run.exit_code == 130:
        return f"❌ {name}: interrupted"
    if any(not verdict.ok for verdict in run.verdicts):
        return f"❌ {name}: not ready"
    if jobs:
        return f"❌ {name}: {counted(len(jobs), 'job')} failed"
    if run.exit_code is None or (run.gates and not run.verdicts):
        return f"❌ {name}: not finished"
    if not run.verdicts:
        return f"⚪ {name}: no gates"
    if run.exit_code != 0:
        return f"❌ {name}: exit code {run.exit_code}"
    if warned:
        return f"⚠️ {name}: {total}, {counted(len(warned), 'warning')}"
    return f"✅ {name}: {'the gate is' if len(run.verdicts) == 1 else f'all {total} are'} ok"


# ------------------------------------------------------------------------------ tables


def _gates(run: RunRecord) -> str:
    if not run.verdicts:
        return ""
    columns = [
        "",
        "gate",
        f"change,{_NO_BREAK}95{_NO_BREAK}%{_NO_BREAK}CI",
        "budget",
        "verdict",
        "measured on",
    ]
    rows = [_gate(run, verdict) for verdict in records.worst_first(run.verdicts)]
    return _fitted(columns, rows, budget=_GATES, noun="gate", right=(2, 3))


def _gate(run: RunRecord, verdict: Verdict) -> list[str]:
    gate, told = verdict.gate, figures(run, verdict)
    effect = told.get("change") or told.get("value") or "–"
    change = [prose(words).replace(" ", _NO_BREAK) for words in (effect, told.get("95 % CI", ""))]
    name = f"**{verdict.verdict}**" if not verdict.ok else verdict.verdict
    if gate.expect == "regressed":
        name += "<br>as expected" if verdict.verdict == "REGRESSED" else "<br>a loss was expected"
    return [
        _MARKS[outcome(verdict)],
        f"{code(gate.variant)}: {prose(rule_words(gate), longest=200)}",
        "<br>".join(filter(None, change)),
        prose(told.get("budget", "")),
        name,
        prose(", ".join(filter(None, (told.get("data", ""), flips_words(verdict))))),
    ]


def _variants(run: RunRecord) -> str:
    metrics = records.shown_metrics(run)
    if not run.variants:
        return ""
    if not metrics:
        rows = [
            [code(v.name), prose(v.job.error if v.job and v.job.error else "not scored")]
            for v in run.variants
        ]
        return _fitted(["variant", ""], rows, budget=_VARIANTS, noun="variant", right=())
    shown = [metric_table(run, metric) for metric in metrics[:_MOST_TABLES]]
    columns = ["variant", *(prose(t.title, longest=80) for t in shown), "stored as", "gates"]
    rows = [
        [
            code(cells[0].name),
            *(_value(row, table.reference) for row, table in zip(cells, shown, strict=True)),
            prose(cells[0].stored, longest=80),
            cells[0].standing,
        ]
        for cells in zip(*(table.rows for table in shown), strict=True)
    ]
    numbers = range(1, len(shown) + 1)
    captions = [
        f"{prose(t.title, longest=80)}: {prose(t.unit, longest=40)}, {t.direction}; {t.measured}"
        for t in shown
    ]
    if len(metrics) > len(shown):
        captions.append(f"{counted(len(metrics) - len(shown), 'more metric')}: see the HTML report")
    # A divergence is from its own reference, and shows no change against any other.
    reference = next((t.reference for t in shown if t.metric != DIVERGENCE), "")
    against = f"; change against {code(reference)}" if reference else ""
    caption = f"<sub>± standard error{against}. "
    caption += ". ".join(captions) + ".</sub>"
    body = _fitted(columns, rows, budget=_VARIANTS, noun="variant", right=numbers)
    return f"{body}\n\n{caption}"


def _value(row: MetricRow, reference: str) -> str:
    if row.problem:
        return "not scored"
    value = f"**{row.value}**" if row.mark == "best" else row.value
    stderr = f" ± {row.stderr}" if row.stderr else ""
    change = f" ({row.change})" if row.change and row.name != reference else ""
    return f"{value}{stderr}{change}"


def _fitted(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    budget: int,
    noun: str,
    right: Sequence[int],
) -> str:
    lines = table(columns, rows, right=right).split("\n")
    kept, note = within(lines, budget, noun)
    return "\n".join([*kept, *(["", note] if note else [])])


# -------------------------------------------------------------------------------- rest


def _reused(run: RunRecord) -> str:
    """What was not computed anew: '5 of 7 variants and 1 of 1 adapter (run X)'."""
    jobs = [variant.job for variant in run.variants if variant.job is not None]
    parts = []
    for noun, known in (("variant", jobs), ("adapter", list(run.adapters))):
        reused = [job for job in known if job.status == "reused"]
        if reused:
            parts.append(f"{len(reused)} of {counted(len(known), noun)}")
    if not parts:
        return ""
    origins = [job.reused_from for job in (*run.adapters, *jobs) if job.reused_from]
    names = joined([code(origin) for origin in list(dict.fromkeys(origins))[:3]])
    origin = f" (run {names})" if names else ""
    return f"Reused, since nothing that it depends on has changed: {joined(parts)}{origin}."


def _notes(run: RunRecord) -> str:
    # What is reused has a sentence of its own here.
    notes = [note for note in notes_of(run) if not note.startswith("Reused from")]
    kept, more = within((f"> {prose(note, longest=600)}" for note in notes), _NOTES, "note")
    if not kept:
        return ""
    lines = ["> [!NOTE]", "\n>\n".join(kept)]
    return "\n".join([*lines, *([">", f"> {more}"] if more else [])])


def _problems(run: RunRecord) -> str:
    """What is not ok, or not to be overlooked: why, and what would put it right."""
    jobs = [f"- ❌ {code(job.name)}: {prose(job.error)}" for job in failed_jobs(run)]
    return _listed([*jobs, *_messages(run, passed=False)], _PROBLEMS)


def _explanations(run: RunRecord) -> str:
    told = _messages(run, passed=True)
    which = "Every gate" if len(told) == len(run.verdicts) else "The other gates"
    return details(f"{which} in words", _listed(told, _MESSAGES)) if told else ""


def _messages(run: RunRecord, *, passed: bool) -> list[str]:
    return [
        f"- {_MARKS[outcome(verdict)]} {verdict.verdict}: {prose(verdict.message)}"
        for verdict in records.worst_first(run.verdicts)
        if verdict.message and (outcome(verdict) == "passed") is passed
    ]


def _listed(lines: list[str], budget: int) -> str:
    kept, more = within(lines, budget, "message")
    return "\n".join([*kept, *(["", more] if more else [])])


def _provenance(run: RunRecord) -> str:
    seconds = duration(run.seconds) if run.seconds is not None else "not finished"
    facts = [
        ("run", run.id),
        ("suite", run.place),
        ("started", run.started),
        ("took", seconds),
        *flat(run.provenance),
    ]
    lines = (" ".join(f"{key}: {value}".split())[:400] for key, value in facts)
    kept, more = within(lines, _PROVENANCE, "line")
    return block("\n".join(kept)) + (f"\n\n{more}" if more else "")
