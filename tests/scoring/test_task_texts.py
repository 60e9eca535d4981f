"""What is kept of what tasks put to the model, from what lm-eval logs of a sample."""

import pytest

from evalkit.records import SampleText
from evalkit.scoring.task_answers import TaskRun
from evalkit.scoring.task_texts import CHOICE_LENGTH, PROMPT_LENGTH, sample_texts


def texts_of(*asked, output_type="multiple_choice", choices=None):
    samples = [{"doc_id": 7, "arguments": list(asked)}]
    known = {7: choices} if choices else {}
    run = TaskRun("t", output_type, not choices, samples, {}, {}, {}, choices=known)
    return sample_texts(run, samples)


def test_choices_after_one_prompt():
    asked = [("What reads?", " a model"), ("What reads?", " a grid")]
    assert texts_of(*asked) == (SampleText("What reads?", (" a model", " a grid")),)


def test_what_is_asked_without_the_prompt_is_no_choice():
    asked = [("Q", " a"), ("Q", " b"), ("", " a"), ("", " b")]
    assert texts_of(*asked, choices=["a", "b"]) == (SampleText("Q", (" a", " b")),)


def test_whole_sentences_have_no_prompt():
    asked = [("", " Who hides?"), ("", " Hides who?")]
    assert texts_of(*asked) == (SampleText("", (" Who hides?", " Hides who?")),)


def test_a_choice_in_the_context_is_a_choice():
    """As winogrande has it: the contexts differ, and what follows them does not."""
    asked = [("Jo beat Mary as Mary", " had a cold."), ("Jo beat Mary as Marc", " had a cold.")]
    wanted = SampleText("Jo beat Mary as ", ("Mary had a cold.", "Marc had a cold."))
    assert texts_of(*asked) == (wanted,)
    nothing_shared = [("Ann", " slept."), ("Bob", " slept.")]
    assert texts_of(*nothing_shared) == (SampleText("", ("Ann slept.", "Bob slept.")),)
    one_begins_the_other = [("So an", " apple"), ("So an old", " apple")]
    wanted = SampleText("So ", ("an apple", "an old apple"))
    assert texts_of(*one_begins_the_other) == (wanted,)


def test_a_generated_answer_has_no_choices():
    asked = ("Say it.", {"until": ["."]})
    assert texts_of(asked, output_type="generate_until") == (SampleText("Say it."),)


def test_a_text_that_is_only_scored_asks_nothing():
    assert texts_of(("A long text.",), output_type="loglikelihood_rolling") == ()


@pytest.mark.parametrize("over", [0, 1])
def test_long_prompts_keep_their_end_and_long_choices_their_beginning(over):
    prompt, choice = "p" * (PROMPT_LENGTH - 1) + "?", "." + "c" * (CHOICE_LENGTH - 1)
    asked = [("x" * over + prompt, choice + "y" * over)]
    (text,) = texts_of(*asked, output_type="loglikelihood")
    mark = "…" * over
    assert text == SampleText(mark + prompt, (choice + mark,))
