"""Samples: greedy to the letter, whatever the checkpoint's own generation config says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from evalkit.errors import ScoringError
from evalkit.records import Progress
from evalkit.scoring.samples import generate_samples
from evalkit.suite import SamplesSpec

PROMPTS = ("The model reads", "Merging into four bits")


def sample(model: Any, tokenizer: Any, *prompts: str, tokens: int = 12, **options: Any) -> Any:
    spec = SamplesSpec(prompts=prompts, max_new_tokens=tokens)
    options = {"job": "score tiny", "on_progress": lambda progress: None, **options}
    return generate_samples(model, tokenizer, spec, **options)


def greedy_by_hand(model: Any, tokenizer: Any, prompt: str, steps: int) -> list[int]:
    ids = tokenizer(prompt)["input_ids"]
    new: list[int] = []
    with torch.no_grad():
        while len(new) < steps and (not new or new[-1] != tokenizer.eos_token_id):
            new.append(int(model(torch.tensor([ids + new])).logits[0, -1].argmax()))
    return new


def test_samples_are_greedy(tiny_model: Any, tiny_tokenizer: Any) -> None:
    samples = sample(tiny_model, tiny_tokenizer, *PROMPTS)
    assert [one.prompt for one in samples] == list(PROMPTS)
    for one in samples:
        expected = greedy_by_hand(tiny_model, tiny_tokenizer, one.prompt, 12)
        assert one.text == tiny_tokenizer.decode(expected, skip_special_tokens=True)
        assert one.tokens == tuple(tiny_tokenizer.decode([token]) for token in expected)


def test_the_checkpoints_generation_config_does_not_bend_them(
    tiny_model: Any, tiny_tokenizer: Any
) -> None:
    plain = sample(tiny_model, tiny_tokenizer, *PROMPTS)
    own = tiny_model.generation_config
    own.do_sample, own.temperature, own.top_k, own.top_p = True, 5.0, 3, 0.5
    own.repetition_penalty, own.no_repeat_ngram_size, own.min_new_tokens = 9.0, 1, 12
    own.num_beams, own.bad_words_ids, own.suppress_tokens = 3, [[5]], list(range(100, 320))
    own.forced_eos_token_id = 1
    assert sample(tiny_model, tiny_tokenizer, *PROMPTS) == plain


def test_generation_stops_at_eos(tiny_model: Any, tiny_tokenizer: Any) -> None:
    expected = greedy_by_hand(tiny_model, tiny_tokenizer, PROMPTS[0], 12)
    tiny_model.generation_config.eos_token_id = [1, expected[2]]
    (one,) = sample(tiny_model, tiny_tokenizer, PROMPTS[0])
    assert len(one.tokens) == expected.index(expected[2]) + 1


def test_progress_tells_the_prompts_done(tiny_model: Any, tiny_tokenizer: Any) -> None:
    ticks: list[Progress] = []
    sample(tiny_model, tiny_tokenizer, *PROMPTS, tokens=1, on_progress=ticks.append)
    assert [(tick.done, tick.total, tick.phase) for tick in ticks] == [
        (0, 2, "samples"),
        (1, 2, "samples"),
        (2, 2, "samples"),
    ]


def test_a_prompt_too_long_for_the_model(tiny_tokenizer: Any, tiny_gpt2_folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_gpt2_folder)
    with pytest.raises(ScoringError, match="more than the model's 256 positions"):
        sample(model, tiny_tokenizer, "日" * 100)


def test_a_prompt_without_tokens(tiny_model: Any, tiny_tokenizer: Any) -> None:
    spec = SamplesSpec.model_construct(prompts=("",), max_new_tokens=1)
    with pytest.raises(ScoringError, match="no tokens to go on from"):
        generate_samples(
            tiny_model, tiny_tokenizer, spec, job="", on_progress=lambda progress: None
        )
