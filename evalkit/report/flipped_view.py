"""The samples of a task that flipped between two variants, side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from evalkit.records import RunRecord, SampleOutcome, SampleText, Score
from evalkit.report import facts
from evalkit.report.documents_view import judged_pairs
from evalkit.report.words import clean, metric_words

MOST_SAMPLES = 24
"""Of each pair of variants: what a reader looks at."""
_LONGEST = 1_200


@dataclass(frozen=True)
class Flip:
    """One sample that one variant of the two got right, and the other wrong."""

    id: str
    prompt: str
    lost: bool
    answers: tuple[tuple[str, str, bool | None], ...]
    """Who, what, whether it was right: of the task first (None), then of both variants."""


@dataclass(frozen=True)
class Flipped:
    """The flips of one metric between two variants."""

    title: str
    samples: tuple[Flip, ...]
    left_out: int


def flipped_samples(run: RunRecord) -> list[Flipped]:
    """Of each task shown: the pairs of its gates, else every variant against the reference.

    What was lost comes before what was gained. Pairs without a flip are left out.
    """
    told = (
        _flipped(run, metric, variant, against)
        for metric in facts.shown_metrics(run)
        for variant, against in _pairs(run, metric)
    )
    return [each for each in told if each is not None]


def _pairs(run: RunRecord, metric: str) -> list[tuple[str, str]]:
    gated = {
        (verdict.gate.variant, verdict.gate.against)
        for verdict in run.verdicts
        if verdict.gate.metric == metric
    }
    pairs = [pair for pair in judged_pairs(run) if pair in gated]
    reference = facts.reference_of(run, metric)
    if pairs or reference is None:
        return pairs
    return [(v.name, reference.name) for v in run.variants if v.name != reference.name]


def _flipped(run: RunRecord, metric: str, variant: str, against: str) -> Flipped | None:
    new, old = (facts.score_of(run, name, metric) for name in (variant, against))
    if new is None or old is None or not facts.comparable(new, old):
        return None
    found = sorted(_flips(new, old, variant, against), key=lambda flip: not flip.lost)
    if not found:
        return None
    lost = sum(flip.lost for flip in found)
    title = (
        f"{metric_words(metric)}: {variant} against {against}, {lost} lost, "
        f"{len(found) - lost} gained"
    )
    left = len(found) - MOST_SAMPLES
    return Flipped(title, tuple(found[:MOST_SAMPLES]), max(0, left))


def _flips(new: Score, old: Score, variant: str, against: str) -> Iterator[Flip]:
    for at, (one, other) in enumerate(zip(new.outcomes, old.outcomes, strict=False)):
        if one.correct is None or other.correct is None or one.correct == other.correct:
            continue
        text = new.sample_texts[at] if new.sample_texts else SampleText("", ())
        yield Flip(
            id=clean(new.unit_ids[at], longest=80),
            prompt=clean(text.prompt, longest=_LONGEST),
            lost=not one.correct,
            answers=(
                ("right", _choice(one.gold, text), None),
                (against, _answer(other, text), other.correct),
                (variant, _answer(one, text), one.correct),
            ),
        )


def _answer(outcome: SampleOutcome, text: SampleText) -> str:
    """'a choice (margin 0.31 nats)', 'a tie'."""
    if outcome.choice is None:
        return "an exact tie"
    margin = ""
    if len(outcome.log_likelihoods) > 1:
        best, second = sorted(outcome.log_likelihoods, reverse=True)[:2]
        margin = f" ({best - second:.2f} nats ahead)"
    return _choice(outcome.choice, text) + margin


def _choice(choice: str, text: SampleText) -> str:
    """The words of a choice, where they are stored; else its number, or the generated text."""
    if text.choices and choice.isdigit() and int(choice) < len(text.choices):
        return clean(text.choices[int(choice)].strip(), longest=_LONGEST)
    return f"choice {choice}" if choice.isdigit() else clean(choice, longest=_LONGEST)
