"""What the pages over many runs say of one of them, in words."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from evalkit.baselines import environment_changes
from evalkit.records import COSTS, SURVIVAL, RunRecord
from evalkit.report import facts
from evalkit.report.sentence import verdict_sentence
from evalkit.report.view import Tone
from evalkit.report.words import clean, counted, metric_words

LONGEST_NAME = 120
"""Characters of a name, a version or a revision that a page over many runs shows."""
LONGEST_SENTENCE = 400
_MOST_CHANGES = 8
_REVISION = 12


def short(text: object, longest: int = LONGEST_NAME) -> str:
    """Untrusted text on one line, printable, no longer than `longest` characters and a note."""
    return " ".join(clean(str(text), longest=longest).split())


def status(run: RunRecord) -> tuple[Tone, str]:
    """Tone and words of a run's badge."""
    failed = sum(facts.job_status(variant) != "scored" for variant in run.variants)
    bad = sum(not verdict.ok for verdict in run.verdicts)
    if run.exit_code is None:
        return "plain", "not ended"
    if bad:
        return "bad", f"{bad} of {counted(len(run.verdicts), 'gate')} not ok"
    if failed:
        return "bad", f"{counted(failed, 'variant')} not scored"
    if not run.verdicts:
        return "plain", "not judged" if run.gates else "no gates"
    if any(verdict.warned or verdict.verdict == "INCONCLUSIVE" for verdict in run.verdicts):
        return "warn", "ok, with warnings"
    return "good", f"{counted(len(run.verdicts), 'gate')} ok"


def sentence(run: RunRecord) -> str:
    """A run's verdict in one sentence, shortened."""
    return short(verdict_sentence(run), LONGEST_SENTENCE)


def revision(provenance: Mapping[str, Any]) -> str:
    """'1a2b3c4d5e6f with changes': the code's git revision; empty where none was recorded."""
    git = provenance.get("git")
    if not isinstance(git, Mapping) or not git.get("revision"):
        return ""
    digits = short(str(git["revision"])[:_REVISION])
    return f"{digits} with changes" if git.get("dirty") else digits


def changes(old: RunRecord | None, new: RunRecord) -> tuple[str, ...]:
    """Packages, devices and dtypes that are not as they were in the run before.

    'torch 2.13.0 → 2.14.0', one a line; what only one of the two recorded is not compared.
    """
    if old is None:
        return ()
    try:
        found = environment_changes(old.provenance, new.provenance)
    except (AttributeError, TypeError):
        # Provenance may be what another program wrote: no mappings where mappings are meant.
        return ()
    more = len(found) - _MOST_CHANGES
    told = [short(line) for line in found[:_MOST_CHANGES]]
    return (*told, f"and {more} more") if more > 0 else tuple(told)


def when(started: str) -> str:
    """'21 November 2026, 22:44 UTC'; what is no time stays as it is."""
    try:
        moment = datetime.fromisoformat(started)
    except ValueError:
        return short(started)
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"


def trend_metrics(run: RunRecord) -> list[str]:
    """The metrics of a run that are followed over runs.

    Those with a table of their own, survival, and exact costs. What was read off a clock moves with
    nothing changed, and single tasks of a group are on their run's page.
    """
    measured = {metric for variant in run.variants for metric in variant.scores}
    exact = [name for name, cost in COSTS.items() if name in measured and not cost.is_timed]
    survived = [SURVIVAL] if SURVIVAL in measured else []
    return [*facts.shown_metrics(run), *survived, *exact]


def metric_title(metric: str) -> str:
    """A metric's name in words, capped."""
    return short(COSTS[metric].title if metric in COSTS else metric_words(metric))
