"""The protocols on real weights: in float32 against the outside, in bfloat16 within its noise."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evalkit.corpora import load_corpus
from evalkit.machine import detect_machine
from evalkit.records import Corpus, Score
from evalkit.scoring.perplexity import score_perplexity
from evalkit.scoring.samples import generate_samples
from evalkit.suite import DataSpec, PerplexitySpec, SamplesSpec

pytestmark = pytest.mark.real

MAX_LENGTH = 128
CHARACTERS = 1500


@pytest.fixture(scope="module")
def tokenizer(real_base: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(real_base)


@pytest.fixture(scope="module")
def model32(real_base: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(real_base, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def model16(real_base: Path) -> Any:
    """In bfloat16, where evalkit would use it."""
    import torch
    from transformers import AutoModelForCausalLM

    if not detect_machine().bf16:
        pytest.skip("this CPU has no bfloat16, so that evalkit computes in float32 here")
    return AutoModelForCausalLM.from_pretrained(real_base, dtype=torch.bfloat16).eval()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Held-out topics, the longest ones cut: more than one window of some, less of others."""
    spec = DataSpec(dataset="builtin:python-reference", split="test", limit=6)
    whole = load_corpus("test", spec, cache=tmp_path_factory.mktemp("cache"))
    short = tuple(replace(item, text=item.text[:CHARACTERS]) for item in whole.documents)
    return replace(whole, documents=short)


def score(model: Any, tokenizer: Any, corpus: Corpus, **fields: Any) -> Score:
    return score_perplexity(
        model,
        tokenizer,
        corpus,
        PerplexitySpec(**{"on": "test", "max_length": MAX_LENGTH, **fields}),
        metric="perplexity",
        max_tokens_per_document=None,
        job="score",
        on_progress=lambda progress: None,
    )


def test_documents_agree_with_lm_eval(model32: Any, tokenizer: Any, corpus: Corpus) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    harness = HFLM(
        pretrained=model32,
        tokenizer=tokenizer,
        device="cpu",
        batch_size=4,
        max_length=MAX_LENGTH,
        softmax_dtype="float32",
        add_bos_token=False,
    )
    requests = [Instance("loglikelihood_rolling", {}, (d.text,), 0) for d in corpus.documents]
    theirs = -np.array(harness.loglikelihood_rolling(requests, disable_tqdm=True))
    ours = score(model32, tokenizer, corpus, batch_tokens=1024)
    np.testing.assert_allclose(ours.sums, theirs, rtol=1e-5)
    assert ours.counts.max() > 2 * MAX_LENGTH
    n_bytes = sum(len(document.text.encode()) for document in corpus.documents)
    assert ours.extra["bits_per_byte"] == pytest.approx(
        theirs.sum() / n_bytes / math.log(2), rel=1e-5
    )
    assert 5 < ours.value < 100


def test_stream_agrees_with_the_transformers_recipe(
    model32: Any, tokenizer: Any, corpus: Corpus
) -> None:
    import torch

    stride = MAX_LENGTH // 2
    ids = tokenizer("\n\n".join(d.text for d in corpus.documents), return_tensors="pt").input_ids
    ids = ids[:, : 5 * stride + 9]
    theirs, previous = [], 0
    for begin in range(0, ids.shape[1], stride):
        end = min(begin + MAX_LENGTH, ids.shape[1])
        labels = ids[:, begin:end].clone()
        labels[:, : -(end - previous)] = -100
        with torch.no_grad():
            mean = model32(ids[:, begin:end], labels=labels).loss
        theirs.append(float(mean) * int((labels[:, 1:] != -100).sum()))
        previous = end
        if end == ids.shape[1]:
            break
    ours = score(
        model32, tokenizer, corpus, protocol="stream", stride=stride, tokens=ids.shape[1] - 1
    )
    np.testing.assert_allclose(ours.sums, theirs, rtol=1e-5)
    assert ours.counts.sum() == ids.shape[1] - 1


def test_chunks_agree_with_llama_cpps_rule(model32: Any, tokenizer: Any, corpus: Corpus) -> None:
    import torch

    ids = tokenizer("\n\n".join(document.text for document in corpus.documents))["input_ids"]
    theirs = []
    for chunk in range(4):
        row = torch.tensor(ids[chunk * MAX_LENGTH : (chunk + 1) * MAX_LENGTH])
        with torch.no_grad():
            log_p = torch.log_softmax(model32(row[None]).logits[0].double(), -1)
        half = range(MAX_LENGTH // 2, MAX_LENGTH - 1)
        theirs.append(-sum(float(log_p[position, row[position + 1]]) for position in half))
    ours = score(model32, tokenizer, corpus, protocol="chunks", tokens=4 * (MAX_LENGTH // 2 - 1))
    np.testing.assert_allclose(ours.sums, theirs, rtol=1e-5)


def all_losses(result: Score) -> np.ndarray:
    assert len(result.token_losses) == len(result.unit_ids)
    return np.concatenate([kept.losses for kept in result.token_losses]).astype(np.float64)


def test_the_batch_moves_bfloat16_within_its_noise_only(
    model16: Any, model32: Any, tokenizer: Any, corpus: Corpus
) -> None:
    """Other shapes may take other kernels, which move a token's bfloat16 loss by 0.06 nats or so.

    That is noise, which averages out with the square root of the tokens; padding or a mask that
    leaks would be a shift, which does not. On a CPU that takes the same kernel for all of these
    shapes nothing moves at all.
    """
    alone, small, large = (
        score(model16, tokenizer, corpus, batch_tokens=size, token_losses=99)
        for size in (1, 512, 4096)
    )
    for batched in (small, large):
        moved = all_losses(batched) - all_losses(alone)
        noise = moved.std()
        assert noise < 0.15
        assert abs(moved.mean()) <= 4 * noise / math.sqrt(len(moved))
        assert batched.value == pytest.approx(alone.value, rel=1e-2)
    exact = score(model32, tokenizer, corpus, batch_tokens=2048)
    assert alone.value == pytest.approx(exact.value, rel=0.02)


def test_the_batch_moves_no_float32(model32: Any, tokenizer: Any, corpus: Corpus) -> None:
    alone, large = (
        score(model32, tokenizer, corpus, batch_tokens=size).value for size in (1, 2048)
    )
    assert large == pytest.approx(alone, rel=1e-5)


def test_the_batch_moves_bfloat16_by_less_than_the_least_noise_floor(
    model16: Any, tokenizer: Any, tmp_path: Path
) -> None:
    """5e-4 of perplexity is a promise for a corpus of this size: the noise of one token is 0.06
    nats, so 100,000 of them leave 2e-4, where a few thousand leave more than the promise.
    """
    parts = [
        load_corpus(
            split, DataSpec(dataset="builtin:python-reference", split=split), cache=tmp_path
        )
        for split in ("train", "test")
    ]
    everything = tuple(document for part in parts for document in part.documents)
    whole = replace(parts[0], documents=everything)
    small, large = (
        score(model16, tokenizer, whole, max_length=512, tokens=101_000, batch_tokens=size)
        for size in (1024, 4096)
    )
    assert small.counts.sum() > 100_000
    assert large.value == pytest.approx(small.value, rel=5e-4)


def test_a_conversation_is_scored_where_the_assistant_speaks(
    model32: Any, tokenizer: Any, corpus: Corpus
) -> None:
    reply = "The capital of France is Paris."
    messages = (("user", "What is the capital of France?"), ("assistant", reply))
    document = replace(corpus.documents[0], text="", messages=messages)
    result = score(
        model32, tokenizer, replace(corpus, documents=(document,)), score_on="completion"
    )
    scored = "".join(result.token_losses[0].tokens)
    assert scored.startswith(reply)
    assert "user" not in scored
    assert result.value < 5


def test_samples_make_sense_and_repeat(model32: Any, tokenizer: Any) -> None:
    spec = SamplesSpec(prompts=("The capital of France is",), max_new_tokens=8)
    first, second = (
        generate_samples(model32, tokenizer, spec, job="score", on_progress=lambda tick: None)
        for _ in range(2)
    )
    assert "Paris" in first[0].text
    assert first == second
