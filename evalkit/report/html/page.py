"""Writes a run as one self-contained HTML page: one script, no request, everything escaped."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from evalkit.errors import EvalkitError
from evalkit.records import DIVERGENCE, JsonObject, RunRecord, Score
from evalkit.report import facts as records
from evalkit.report.again import commands
from evalkit.report.baseline_notes import relaxed_notes
from evalkit.report.checks import check_table
from evalkit.report.compiled import template_environment
from evalkit.report.details import flat, graph, job_card, job_table
from evalkit.report.divergence_view import divergence_view
from evalkit.report.flipped_view import flipped_samples
from evalkit.report.flips_view import flip_rows
from evalkit.report.html.cost_page import cost_context
from evalkit.report.html.drawings import Drawings
from evalkit.report.html.figures import documents_context, metric_chart, values_data
from evalkit.report.html.scripts import page_script, script_digest
from evalkit.report.notes import notes_of
from evalkit.report.path_effects import path_sentences
from evalkit.report.samples_view import prompt_cards
from evalkit.report.sentence import verdict_sentence
from evalkit.report.step_table import step_table
from evalkit.report.survival_view import LEVELS, survival_cards
from evalkit.report.variant_table import variant_table
from evalkit.report.view import (
    GateRow,
    gate_rows,
    group_rows,
    metric_table,
)
from evalkit.report.whole_files import write_whole
from evalkit.report.words import clean, counted, duration

LONGEST_SUITE = 200_000
"""Characters of the suite's text that the page shows."""


def report_path(run: RunRecord, folder: Path) -> Path:
    """Where a run's page lies below `folder`: SUITE/RUN/index.html, safe as file names."""
    return folder / _file_name(run.suite) / _file_name(run.id) / "index.html"


def write_report(run: RunRecord, folder: Path) -> Path:
    """Writes a run's page below `folder` and returns its path.

    The page appears whole or not at all. The same run gives the same bytes.

    Raises:
        EvalkitError: the folder cannot be written to.
    """
    page = render_html(run, folder)
    path = report_path(run, folder)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, page.encode("utf-8"), flush=True)
    except OSError as error:
        raise EvalkitError(
            f"{path}: the report cannot be written ({error.strerror or error}). The run itself is "
            "stored: draw it again elsewhere with `evalkit report`"
        ) from error
    return path


def render_html(run: RunRecord, folder: Path | None = None) -> str:
    """A run's page as text.

    Args:
        run: a whole run.
        folder: that pages are written below: pictures are taken from it, and kept there.
    """
    context = _context(run, Drawings(folder))
    return _environment().get_template("report.html.j2").render(context)


def shown(value: object) -> object:
    """What every expression of a template passes through: untrusted text is made printable."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return clean(value, longest=LONGEST_SUITE)
    return value


@cache
def _environment() -> jinja2.Environment:
    environment = template_environment(["evalkit.report.html"], shown)
    environment.filters["unbroken"] = _unbroken
    environment.filters["whole"] = _whole
    return environment


def _any_score(run: RunRecord, metric: str | None) -> Score | None:
    return next((v.scores[metric] for v in run.variants if metric and metric in v.scores), None)


def _context(run: RunRecord, drawings: Drawings) -> dict[str, Any]:
    sentence = verdict_sentence(run)
    # What a reader in a hurry needs: 'Ship a or b', 'Not ready'.
    lead = len(re.split(r"[;:] ", sentence, maxsplit=1)[0])
    metrics = records.metrics_of(run)
    primary = records.primary_metric(run)
    shown = [metric_table(run, metric) for metric in records.shown_metrics(run)]
    charted = [each for each in shown if each.metric != DIVERGENCE]  # it has a section of its own
    charted.sort(key=lambda each: each.metric != primary)
    table = variant_table(run, [(each.title, each.measured) for each in shown])
    gates = gate_rows(run)
    shared, jobs = job_table(run)
    return {
        "run": run,
        "script": page_script(),
        "script_digest": script_digest(),
        "lead": sentence[:lead],
        "rest": sentence[lead:],
        "status": _status(run, gates),
        "summary": _summary(run, metrics),
        "gates": gates,
        "table": table,
        "table_data": values_data(table) if table else None,
        "group": group_rows(run),
        "charts": [metric_chart(run, each, drawings) for each in charted],
        "unscored": [] if table else run.variants,
        **cost_context(run, drawings),
        "steps": step_table(run),
        "paths": path_sentences(run),
        "graph": graph(run, primary) if primary else [],
        "graph_metric": next((t.title for t in shown if t.metric == primary), ""),
        "graph_unit": records.unit_noun(_any_score(run, primary)),
        "adapters": [job_card(job.name, job) for job in run.adapters],
        "divergence": divergence_view(run),
        "divergence_chart": [
            metric_chart(run, each, drawings) for each in shown if each.metric == DIVERGENCE
        ],
        "flips": flip_rows(run),
        "flipped": flipped_samples(run),
        "survival": survival_cards(run),
        "survival_levels": LEVELS,
        **documents_context(run, drawings),
        "checks": check_table(run),
        "prompts": prompt_cards(run),
        "relaxed": relaxed_notes(run),
        "notes": [note for note in notes_of(run) if note not in relaxed_notes(run)],
        "shared_facts": shared,
        "jobs": jobs,
        "measured": [(table.title, flat(_comparison(run, table.metric))) for table in shown],
        "provenance": _groups(run),
        "again": commands(run),
        "baseline": _baseline(run),
        "suite_text": run.suite_text,
    }


def _status(run: RunRecord, gates: Sequence[GateRow]) -> tuple[str, str]:
    """Tone and words of the badge at the top."""
    ok = sum(gate.ok for gate in gates)
    failed = sum(records.job_status(variant) != "scored" for variant in run.variants)
    if failed:
        return "bad", f"{counted(failed, 'variant')} not scored"
    if not gates:
        return "plain", "not judged" if run.gates else "no gates"
    if ok < len(gates):
        return "bad", f"{len(gates) - ok} of {counted(len(gates), 'gate')} not ok"
    if any(gate.tone == "warn" for gate in gates):
        return "warn", "ok, with warnings"
    return "good", f"{ok} of {counted(len(gates), 'gate')} ok"


def _summary(run: RunRecord, metrics: Sequence[str]) -> list[str]:
    """The line of facts under the sentence."""
    parts = [_date_words(run.started)]
    if run.seconds is not None:
        parts.append(duration(run.seconds))
    if run.provenance.get("device_name"):
        parts.append(str(run.provenance["device_name"]))
    parts.append(counted(len(run.variants), "variant"))
    if metrics:
        score = next(v.scores[metrics[0]] for v in run.variants if metrics[0] in v.scores)
        parts.append(counted(len(score.unit_ids), records.unit_noun(score)))
    if run.exit_code is not None:
        parts.append(f"exit code {run.exit_code}")
    return parts


def _comparison(run: RunRecord, metric: str) -> JsonObject:
    return next(dict(v.scores[metric].comparison) for v in run.variants if metric in v.scores)


def _groups(run: RunRecord) -> list[tuple[str, list[tuple[str, str]]]]:
    """Provenance by topic: what is nested makes a group of its own, the rest comes first."""
    single = {key: value for key, value in run.provenance.items() if not _is_mapping(value)}
    identity = {"run": run.id, "suite": run.suite, "started": run.started}
    groups = [("This run", flat({**identity, "exit code": run.exit_code, **single}))]
    groups += [
        (str(key).replace("_", " "), flat(value))
        for key, value in run.provenance.items()
        if _is_mapping(value) and key not in {"noise_floors", "baseline"}  # told in words elsewhere
    ]
    groups += [
        (f"arguments {key}", flat(value))
        for key, value in run.arguments.items()
        if _is_mapping(value)
    ]
    return groups


def _baseline(run: RunRecord) -> dict[str, Any] | None:
    """The baseline that the run was judged by, and all that was recorded otherwise there."""
    facts = run.provenance.get("baseline")
    if not isinstance(facts, dict) or not facts or facts.get("run") == run.id:
        return None
    changes = [*facts.get("sources", ()), *facts.get("differs", ())]
    return {"name": facts.get("name"), "run": facts.get("run"), "changes": changes}


def _is_mapping(value: object) -> bool:
    return isinstance(value, dict) and bool(value)


def _date_words(started: str) -> str:
    try:
        moment = datetime.fromisoformat(started)
    except ValueError:
        return started
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"


def _unbroken(text: str) -> str:
    """Keeps a number and its unit on one line."""
    return re.sub(r"(?<=\d) (?=%|pp\b)", "\N{NO-BREAK SPACE}", text)


def _whole(text: str) -> Markup:
    """Escaped, with '4-bit' kept on one line; a no-break hyphen would hide it from a search."""
    kept = re.sub(r"(\d+-bit)", r'<span class="whole">\1</span>', str(escape(_unbroken(text))))
    return Markup(kept)


def _file_name(name: str) -> str:
    """One path component that leads nowhere else, whatever the name says."""
    safe = re.sub(r"[^\w.+-]+", "-", name).strip(".-")[:80]
    return safe or "unnamed"
