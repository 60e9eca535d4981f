"""What a reader must know of a run's lm-eval tasks: ties, and where lm-eval reads otherwise."""

from __future__ import annotations

from evalkit.records import RunRecord, Score
from evalkit.report.facts import metrics_of
from evalkit.report.words import counted, joined, score_figure

_MOST = 4


def task_notes(run: RunRecord) -> list[str]:
    """One sentence a metric with ties, and one on the tasks that are not shown."""
    notes = []
    for metric in metrics_of(run):
        if metric.count("/") < 2:
            tied = {v.name: v.scores[metric] for v in run.variants if _ties(v.scores.get(metric))}
            notes += [_tie_note(metric, tied)] if tied else []
    hidden = [metric for metric in metrics_of(run) if metric.count("/") > 1]
    if hidden:
        groups = list(dict.fromkeys(metric.partition("/")[0] for metric in hidden))
        notes.append(
            f"{counted(len(hidden), 'metric')} of the single tasks of {joined(groups)}: "
            "in the report's last table and in the JSON."
        )
    return notes


def _ties(score: Score | None) -> int:
    return int(score.extra.get("n_ties", 0)) if score is not None else 0


def _tie_note(metric: str, tied: dict[str, Score]) -> str:
    said = []
    for name, score in list(tied.items())[:_MOST]:
        words = f"{name} {_ties(score)} of {len(score.unit_ids):,}"
        theirs = score.extra.get("lm_eval")
        if theirs is not None and theirs != score.value:
            shown = score_figure(score.value, score.unit)
            words += f" (lm-eval reads {score_figure(theirs, score.unit)} for {shown})"
        said.append(words)
    rest = f" and {len(tied) - _MOST} more" if len(tied) > _MOST else ""
    return f"{metric}: choices that tie exactly are no hits: {joined(said)}{rest}."
