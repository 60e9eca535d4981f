"""What a task put to the model, sample by sample, short enough to be stored and shown."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from evalkit.records import SampleText
from evalkit.scoring.task_answers import Sample, TaskRun

PROMPT_LENGTH = 600
"""Characters of a prompt that are kept, the last ones: the question is at the end, and a dozen
lines of it are what a reader looks at. Few-shot examples before it are the same every time."""
CHOICE_LENGTH = 300
"""Characters of a choice that are kept, the first ones: a long sentence has fewer, and a task may
have a hundred choices a sample."""


def sample_texts(run: TaskRun, samples: Sequence[Sample]) -> tuple[SampleText, ...]:
    """Prompts and choices as the model read them.

    Args:
        run: the task.
        samples: those that a score has, in its order.

    Returns:
        One for each sample; none of a task that scores texts and asks nothing.
    """
    if run.output_type == "loglikelihood_rolling":
        return ()
    return tuple(_sample_text(run, sample) for sample in samples)


def _sample_text(run: TaskRun, sample: Sample) -> SampleText:
    asked = sample["arguments"]
    if run.output_type == "generate_until":
        return SampleText(_end(str(asked[0][0])))
    # Behind the choices lm-eval asks for each without the prompt, where a metric needs that.
    pairs = asked[: len(run.choices.get(sample["doc_id"], asked))]
    contexts = [str(pair[0]) for pair in pairs]
    prompt = _common_start(contexts)
    return SampleText(
        _end(prompt),
        tuple(
            _beginning(context[len(prompt) :] + str(pair[1]))
            for context, pair in zip(contexts, pairs, strict=True)
        ),
    )


def _common_start(contexts: Sequence[str]) -> str:
    """What all choices have before them: where a choice stands in its context, up to its word."""
    # What the first and the last in sorted order share, those between them share too.
    ends = zip(min(contexts), max(contexts), strict=False)
    start = "".join(one for one, _ in takewhile(lambda pair: pair[0] == pair[1], ends))
    if all(context == start for context in contexts):
        return start
    before, space, _ = start.rpartition(" ")
    return before + space


def _end(text: str) -> str:
    return text if len(text) <= PROMPT_LENGTH else f"…{text[-PROMPT_LENGTH:]}"


def _beginning(text: str) -> str:
    return text if len(text) <= CHOICE_LENGTH else f"{text[:CHOICE_LENGTH]}…"
