"""What a model answered to each sample of a task, and where its best choices tie."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evalkit.errors import ScoringError
from evalkit.records import Float64s, SampleOutcome

Sample = Mapping[str, Any]
"""What lm-eval logs of a sample under one filter."""


@dataclass(frozen=True)
class TaskRun:
    """One task as lm-eval ran it."""

    name: str
    output_type: str
    """'multiple_choice', 'loglikelihood', 'loglikelihood_rolling' or 'generate_until'."""
    own_scoring: bool
    """The definition scores answers by code of its own."""
    samples: Sequence[Sample]
    readings: Mapping[str, Any]
    """lm-eval's own results, by 'metric,filter'."""
    higher_is_better: Mapping[str, bool]
    comparison: Mapping[str, str]
    choices: Mapping[int, Sequence[str]] = field(default_factory=dict)
    """Of a multiple-choice task, by `doc_id`."""
    golds: Mapping[int, Sequence[int]] = field(default_factory=dict)
    """The right ones of them; none where the label is no choice."""


@dataclass(frozen=True)
class Answers:
    """What was answered to each sample."""

    outcomes: tuple[SampleOutcome, ...]
    ties: int | None = None
    """Samples whose best choices tie; None where nothing is chosen."""


# By what lm-eval divides, or from what it subtracts, before it takes the best choice.
_CHOOSES: dict[str, Callable[[Float64s, Float64s, Sequence[str]], Float64s]] = {
    "acc": lambda own, _, __: own,
    "acc_norm": lambda own, _, texts: own / np.array([float(len(text)) for text in texts]),
    "acc_bytes": lambda own, _, texts: own / np.array([float(len(t.encode())) for t in texts]),
    "acc_mutual_info": lambda own, alone, _: own - alone,
}


def answers(run: TaskRun, samples: Sequence[Sample], metric: str, values: Float64s) -> Answers:
    """What was answered, seen by one metric.

    Args:
        run: the task.
        samples: those that have the metric.
        metric: lm-eval's name of it.
        values: what lm-eval says of each sample; shape (samples,).

    Raises:
        ScoringError: a log-likelihood is not finite.
    """
    hit_or_miss = bool(np.isin(values, (0.0, 1.0)).all())
    right = [bool(value) if hit_or_miss else None for value in values]
    if run.output_type == "multiple_choice" and run.choices:
        return _chosen(run, samples, metric, right)
    if run.output_type == "loglikelihood":
        return Answers(tuple(_told(*pair) for pair in zip(samples, right, strict=True)))
    if run.output_type == "generate_until":
        return Answers(tuple(_written(*pair) for pair in zip(samples, right, strict=True)))
    return Answers(())


def _chosen(
    run: TaskRun, samples: Sequence[Sample], metric: str, right: Sequence[bool | None]
) -> Answers:
    outcomes = []
    choose = None if run.own_scoring else _CHOOSES.get(metric)
    for sample, correct in zip(samples, right, strict=True):
        texts = run.choices[sample["doc_id"]]
        all_ = np.array([pair[0] for pair in sample["filtered_resps"]], dtype=np.float64)
        own, alone = all_[: len(texts)], all_[len(texts) :]
        if not np.isfinite(own).all():
            raise ScoringError(
                f"{run.name}: sample {sample['doc_id']}: a log-likelihood is {own.min()}, not a "
                "finite number"
            )
        compared = own if choose is None else choose(own, alone, texts)
        best = int(np.argmax(compared))
        tied = choose is not None and int((compared == compared[best]).sum()) > 1
        outcomes.append(
            SampleOutcome(
                gold=",".join(str(gold) for gold in run.golds[sample["doc_id"]]),
                choice=None if tied else str(best),
                correct=False if tied else correct,
                log_likelihoods=tuple(own.tolist()),
                tied=tied,
            )
        )
    ties = None if choose is None else sum(outcome.tied for outcome in outcomes)
    return Answers(tuple(outcomes), ties)


def _told(sample: Sample, correct: bool | None) -> SampleOutcome:
    """A text whose likelihood was asked: it is the answer where every token is the likeliest."""
    log_likelihood, greedy = sample["filtered_resps"][0]
    wanted = str(sample["target"])
    answer = wanted if greedy else ""
    return SampleOutcome(wanted, answer, correct, (float(log_likelihood),))


def _written(sample: Sample, correct: bool | None) -> SampleOutcome:
    answer = sample["filtered_resps"][0]
    return SampleOutcome(str(sample["target"]), str(answer), correct)
