"""Perplexity: each protocol against the outside thing it must agree with, and every way out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from evalkit.corpora import corpus_digest
from evalkit.errors import DataError, ScoringError
from evalkit.records import Corpus, Document, Progress, Score
from evalkit.scoring import forward
from evalkit.scoring.perplexity import score_perplexity
from evalkit.statistics.clusters import ratio_standard_error
from evalkit.suite import PerplexitySpec

TEXTS = (
    "The model reads the words and the words are scored one by one.",
    "A quantised weight lies on a grid; an adapter moves it a little, naïvely – 日本.",
    "Perplexity is the exponential of the mean loss of every token. " * 4,
    "x",
    "Merging into four bits rounds the small change away.\n\nTwice.\n",
)


def corpus_of(*documents: Document | str) -> Corpus:
    made = tuple(
        Document(id=f"d{index}", text=item) if isinstance(item, str) else item
        for index, item in enumerate(documents)
    )
    return Corpus("test", made, "a test", corpus_digest(made))


def score(
    model: Any,
    tokenizer: Any,
    corpus: Corpus,
    *,
    per_document: int | None = None,
    on_progress: Any = lambda progress: None,
    **fields: Any,
) -> Score:
    return score_perplexity(
        model,
        tokenizer,
        corpus,
        PerplexitySpec(**{"on": "test", "max_length": 32, **fields}),
        metric="perplexity",
        max_tokens_per_document=per_document,
        job="score tiny",
        on_progress=on_progress,
    )


def losses_of(model: Any, ids: list[int]) -> np.ndarray:
    """−log p of every token but the first, one row, float64 log-softmax."""
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].double()
    picked = torch.log_softmax(logits[:-1], -1).gather(1, torch.tensor(ids[1:])[:, None])
    return -picked[:, 0].numpy()


# ----------------------------------------------------------------------------- proofs


@pytest.mark.parametrize("batch_tokens", [1, 100, 4096])
def test_documents_agree_with_lm_eval(
    tiny_model: Any, tiny_tokenizer: Any, batch_tokens: int
) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    harness = HFLM(
        pretrained=tiny_model,
        tokenizer=tiny_tokenizer,
        device="cpu",
        batch_size=2,
        max_length=32,
        softmax_dtype="float32",
        add_bos_token=False,
    )
    requests = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in TEXTS]
    theirs = -np.array(harness.loglikelihood_rolling(requests, disable_tqdm=True))
    ours = score(tiny_model, tiny_tokenizer, corpus_of(*TEXTS), batch_tokens=batch_tokens)
    np.testing.assert_allclose(ours.sums, theirs, rtol=1e-5)
    counts = [len(tiny_tokenizer(text)["input_ids"]) for text in TEXTS]
    assert ours.counts.tolist() == counts
    assert max(counts) > 2 * 32, "no document is long enough for a window filled from behind"
    assert ours.value == pytest.approx(math.exp(theirs.sum() / sum(counts)), rel=1e-5)


@pytest.mark.parametrize(("max_length", "stride"), [(32, 16), (32, 7), (32, 32), (200, 100)])
def test_stream_agrees_with_the_transformers_recipe(
    tiny_model: Any, tiny_tokenizer: Any, max_length: int, stride: int
) -> None:
    """The recipe's labels, with the loss of every token in the place of each window's mean."""
    ids = tiny_tokenizer("\n\n".join(TEXTS), return_tensors="pt").input_ids
    length = ids.shape[1]
    theirs = []
    previous = 0
    for begin in range(0, length, stride):
        end = min(begin + max_length, length)
        labels = ids[:, begin:end].clone()
        labels[:, : -(end - previous)] = -100
        with torch.no_grad():
            logits = tiny_model(ids[:, begin:end]).logits.float()
        losses = torch.nn.functional.cross_entropy(
            logits[0, :-1], labels[0, 1:], reduction="none", ignore_index=-100
        )
        if end - begin > 1:
            theirs.append(losses[labels[0, 1:] != -100].numpy())
        previous = end
        if end == length:
            break
    ours = score(
        tiny_model,
        tiny_tokenizer,
        corpus_of(*TEXTS),
        protocol="stream",
        max_length=max_length,
        stride=stride,
        token_losses=1000,
    )
    assert [len(kept.losses) for kept in ours.token_losses] == [len(part) for part in theirs]
    np.testing.assert_allclose(
        np.concatenate([kept.losses for kept in ours.token_losses]),
        np.concatenate(theirs),
        rtol=1e-5,
        atol=1e-5,
    )
    np.testing.assert_allclose(ours.sums, [part.sum(dtype=float) for part in theirs], rtol=1e-5)


@pytest.mark.parametrize("with_bos", [False, True])
def test_chunks_agree_with_llama_cpps_rule(
    tiny_model: Any, tiny_tokenizer: Any, bos_tokenizer: Any, with_bos: bool
) -> None:
    """The loop of llama.cpp's perplexity tool, written down again over one row of logits."""
    n_ctx = 32
    tokenizer = bos_tokenizer if with_bos else tiny_tokenizer
    ids = tokenizer("\n\n".join(TEXTS))["input_ids"]
    assert (ids[0] == tokenizer.bos_token_id) == with_bos
    nll, count, chunks = 0.0, 0, []
    for chunk in range(len(ids) // n_ctx):
        row = ids[chunk * n_ctx : (chunk + 1) * n_ctx]
        if with_bos:
            row = [tokenizer.bos_token_id, *row[1:]]
        losses = losses_of(tiny_model, row)
        before = nll
        for position in range(n_ctx // 2, n_ctx - 1):
            nll += float(losses[position])
            count += 1
        chunks.append(nll - before)
    ours = score(tiny_model, tokenizer, corpus_of(*TEXTS), protocol="chunks", max_length=n_ctx)
    assert ours.counts.tolist() == [n_ctx // 2 - 1] * len(chunks)
    np.testing.assert_allclose(ours.sums, chunks, rtol=1e-5)
    assert ours.value == pytest.approx(math.exp(nll / count), rel=1e-5)
    assert ours.unit_ids[:2] == ("chunk 0", "chunk 1")


def test_completions_are_scored_after_their_prompts(tiny_model: Any, tiny_tokenizer: Any) -> None:
    document = Document(id="q", prompt="The model reads", text=" the words and the words.")
    ours = score(
        tiny_model, tiny_tokenizer, corpus_of(document), score_on="completion", token_losses=1
    )
    ids = tiny_tokenizer(document.prompt + document.text)["input_ids"]
    start = len(tiny_tokenizer(document.prompt)["input_ids"])
    expected = losses_of(tiny_model, [0, *ids])[start:]
    np.testing.assert_allclose(ours.token_losses[0].losses, expected, rtol=1e-4)
    assert "".join(ours.token_losses[0].tokens) == document.text
    assert ours.extra["n_bytes"] == len(document.text)
    whole = score(tiny_model, tiny_tokenizer, corpus_of(document), score_on="all")
    assert whole.counts[0] == len(ids)


def test_a_long_completion_is_scored_to_its_end(tiny_model: Any, tiny_tokenizer: Any) -> None:
    document = Document(id="q", prompt="The model reads", text=TEXTS[2])
    ours = score(tiny_model, tiny_tokenizer, corpus_of(document), score_on="completion")
    ids = tiny_tokenizer(document.prompt + document.text)["input_ids"]
    start = len(tiny_tokenizer(document.prompt)["input_ids"])
    assert ours.counts[0] == len(ids) - start > 2 * 32


def test_the_assistants_last_message_is_scored(tiny_model: Any, tiny_tokenizer: Any) -> None:
    messages = (("user", "hi"), ("assistant", "no"), ("user", "so?"), ("assistant", "the words"))
    document = Document(id="chat", text="", messages=(*messages, ("user", "thanks")))
    ours = score(
        tiny_model,
        tiny_tokenizer,
        corpus_of(document),
        score_on="completion",
        max_length=128,
        token_losses=1,
    )
    assert "".join(ours.token_losses[0].tokens) == "the words</s>\n"
    rendered = tiny_tokenizer.apply_chat_template(
        [{"role": role, "content": text} for role, text in messages], tokenize=False
    )
    ids = [0, *tiny_tokenizer(rendered)["input_ids"]]
    expected = losses_of(tiny_model, ids)[-len(ours.token_losses[0].losses) :]
    np.testing.assert_allclose(ours.token_losses[0].losses, expected, rtol=1e-4)
    assert ours.comparison["chat_template"]


# ----------------------------------------------------------------------------- invariance


@pytest.mark.parametrize("fields", [{}, {"protocol": "stream"}, {"protocol": "chunks"}])
def test_float32_does_not_depend_on_the_batch(
    tiny_model: Any, tiny_tokenizer: Any, fields: dict[str, Any]
) -> None:
    alone, two, all_at_once = (
        score(tiny_model, tiny_tokenizer, corpus_of(*TEXTS), batch_tokens=size, **fields)
        for size in (1, 70, 10_000)
    )
    np.testing.assert_allclose(two.sums, alone.sums, rtol=1e-5)
    np.testing.assert_allclose(all_at_once.sums, alone.sums, rtol=1e-5)
    assert two.comparison == alone.comparison


def test_small_pieces_of_logits_change_nothing(
    tiny_model: Any, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = score(tiny_model, tiny_tokenizer, corpus_of(*TEXTS))
    monkeypatch.setitem(forward.PIECE, "cpu", 3 * 320 + 1)
    pieces = score(tiny_model, tiny_tokenizer, corpus_of(*TEXTS))
    np.testing.assert_allclose(pieces.sums, whole.sums, rtol=1e-7)


def test_low_precision_logits_are_summed_in_float32(tiny_model: Any, tiny_tokenizer: Any) -> None:
    """Losses far finer than bfloat16 can hold: the softmax was not taken in it."""
    kept = score(
        tiny_model.to(torch.bfloat16), tiny_tokenizer, corpus_of(TEXTS[2]), token_losses=1
    ).token_losses[0]
    losses = torch.from_numpy(kept.losses)
    assert (losses != losses.bfloat16().float()).float().mean() > 0.9


def test_dropout_is_off(tiny_tokenizer: Any, tiny_gpt2_folder: Any) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_gpt2_folder)
    assert model.config.resid_pdrop > 0
    first, second = (score(model.train(), tiny_tokenizer, corpus_of(*TEXTS)) for _ in range(2))
    assert first.sums.tolist() == second.sums.tolist()
    assert not model.training


# ----------------------------------------------------------------------------- out of memory


@pytest.fixture
def small_memory(tiny_model: Any) -> Iterator[tuple[Any, list[int]]]:
    """A model that has memory for batches of 70 positions, and the sizes it was asked for."""
    sizes: list[int] = []

    def refuse(module: Any, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        size = options["input_ids"].numel()
        sizes.append(size)
        if size > 70:
            raise torch.OutOfMemoryError(f"no memory for {size} positions")

    hook = tiny_model.register_forward_pre_hook(refuse, with_kwargs=True)
    yield tiny_model, sizes
    hook.remove()


def test_out_of_memory_halves_the_batch_and_goes_on(
    small_memory: tuple[Any, list[int]], tiny_tokenizer: Any
) -> None:
    model, sizes = small_memory
    halved = score(model, tiny_tokenizer, corpus_of(*TEXTS), batch_tokens=512)
    assert sizes[0] > 70
    failed = [size for size in sizes if size > 70]
    assert len(failed) < len(sizes) / 2, "the smaller batch was not kept"
    assert all(later <= size / 2 + 1 for size, later in itertools.pairwise(failed))
    model._forward_pre_hooks.clear()
    whole = score(model, tiny_tokenizer, corpus_of(*TEXTS), batch_tokens=512)
    np.testing.assert_allclose(halved.sums, whole.sums, rtol=1e-5)


def test_the_cpus_own_out_of_memory_counts(
    tiny_model: Any, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, failures = forward.forward_losses, []

    def once(model: Any, batch: Any) -> Any:
        if not failures:
            failures.append(len(batch))
            torch.empty(2**55, dtype=torch.uint8)  # the real message of the real allocator
        return real(model, batch)

    monkeypatch.setattr(forward, "forward_losses", once)
    result = score(tiny_model, tiny_tokenizer, corpus_of(*TEXTS), batch_tokens=512)
    assert failures[0] > 1
    assert result.counts.sum() > 100


def test_one_window_that_does_not_fit_is_an_error(
    small_memory: tuple[Any, list[int]], tiny_tokenizer: Any
) -> None:
    with pytest.raises(ScoringError, match=r"single window of \d+ tokens.*smaller max_length"):
        score(small_memory[0], tiny_tokenizer, corpus_of(TEXTS[2]), max_length=128)


def test_other_runtime_errors_are_not_swallowed(tiny_model: Any, tiny_tokenizer: Any) -> None:
    def fail(module: Any, args: Any) -> None:
        raise RuntimeError("shapes do not match")

    tiny_model.model.layers[0].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        score(tiny_model, tiny_tokenizer, corpus_of(*TEXTS))


# ----------------------------------------------------------------------------- caps and readings


def test_caps_keep_the_first_tokens_of_every_document(tiny_model: Any, tiny_tokenizer: Any) -> None:
    whole = score(tiny_model, tiny_tokenizer, corpus_of(*TEXTS), token_losses=99)
    counts = whole.counts.astype(int).tolist()
    capped = score(tiny_model, tiny_tokenizer, corpus_of(*TEXTS), per_document=25, token_losses=99)
    assert capped.counts.tolist() == [min(count, 25) for count in counts]
    for short, long in zip(capped.token_losses, whole.token_losses, strict=True):
        np.testing.assert_allclose(short.losses, long.losses[: len(short.losses)], rtol=1e-4)
    shared = score(tiny_model, tiny_tokenizer, corpus_of(*TEXTS), per_document=25, tokens=60)
    assert shared.counts.max() < 25
    assert 60 - len(TEXTS) < shared.counts.sum() <= 60
    digests = {str(sorted(s.comparison.items())) for s in (whole, capped, shared)}
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("protocol", "cap", "expected"), [("stream", 50, 50), ("chunks", 50, 45), ("chunks", 44, 30)]
)
def test_caps_of_joined_protocols(
    tiny_model: Any, tiny_tokenizer: Any, protocol: str, cap: int, expected: int
) -> None:
    result = score(tiny_model, tiny_tokenizer, corpus_of(*TEXTS), protocol=protocol, tokens=cap)
    assert result.counts.sum() == expected == result.extra["n_tokens"]


def test_readings_are_of_what_was_scored(tiny_model: Any, tiny_tokenizer: Any) -> None:
    result = score(tiny_model, tiny_tokenizer, corpus_of(*TEXTS))
    n_bytes = sum(len(text.encode()) for text in TEXTS)
    n_words = sum(len(text.split()) for text in TEXTS)
    assert result.extra["n_bytes"] == n_bytes
    assert result.extra["n_words"] == n_words
    assert result.extra["n_documents"] == len(TEXTS)
    nats = result.sums.sum()
    assert result.extra["bits_per_byte"] == pytest.approx(nats / n_bytes / math.log(2))
    assert result.extra["word_perplexity"] == pytest.approx(math.exp(nats / n_words))
    assert result.extra["tokens_per_second"] > 0
    capped = score(tiny_model, tiny_tokenizer, corpus_of(TEXTS[0]), per_document=9, token_losses=1)
    piece = "".join(capped.token_losses[0].tokens)
    assert TEXTS[0].startswith(piece)
    assert capped.extra["n_bytes"] == len(piece) < len(TEXTS[0])


def test_the_standard_error_is_clustered(tiny_model: Any, tiny_tokenizer: Any) -> None:
    documents = [
        Document(id=f"d{index}", text=text, cluster="one" if index < 3 else None)
        for index, text in enumerate(TEXTS)
    ]
    result = score(tiny_model, tiny_tokenizer, corpus_of(*documents))
    assert result.clusters == ("one", "one", "one", "d3", "d4")
    expected = ratio_standard_error(result.sums, result.counts, result.clusters)
    assert expected is not None
    assert result.stderr == pytest.approx(result.value * expected)
    plain = score(tiny_model, tiny_tokenizer, corpus_of(*TEXTS))
    assert plain.stderr != pytest.approx(result.stderr)
    assert score(tiny_model, tiny_tokenizer, corpus_of(TEXTS[0])).stderr is None


def test_empty_documents_count_in_streams_only(tiny_model: Any, tiny_tokenizer: Any) -> None:
    corpus = corpus_of(TEXTS[0], "", TEXTS[1])
    assert score(tiny_model, tiny_tokenizer, corpus).unit_ids == ("d0", "d2")
    stream = score(tiny_model, tiny_tokenizer, corpus, protocol="stream")
    joined = tiny_tokenizer(f"{TEXTS[0]}\n\n\n\n{TEXTS[1]}")["input_ids"]
    assert stream.counts.sum() == len(joined) - 1


def test_token_losses_are_kept_for_as_many_as_asked(tiny_model: Any, tiny_tokenizer: Any) -> None:
    result = score(tiny_model, tiny_tokenizer, corpus_of(*TEXTS), token_losses=3)
    assert [kept.unit for kept in result.token_losses] == [0, 1, 2]
    for kept in result.token_losses:
        assert "".join(kept.tokens) == TEXTS[kept.unit]
        assert kept.losses.sum(dtype=float) == pytest.approx(result.sums[kept.unit])
    assert not score(tiny_model, tiny_tokenizer, corpus_of(*TEXTS), token_losses=0).token_losses


def test_progress_counts_tokens_to_the_end(tiny_model: Any, tiny_tokenizer: Any) -> None:
    ticks: list[Progress] = []
    result = score(
        tiny_model, tiny_tokenizer, corpus_of(*TEXTS), batch_tokens=1, on_progress=ticks.append
    )
    done = [tick.done for tick in ticks]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, result.counts.sum())
    assert {(t.job, t.phase, t.total, t.unit) for t in ticks} == {
        ("score tiny", "perplexity", result.counts.sum(), "tokens")
    }


def test_progress_counts_a_batch_when_all_of_it_is_done(
    tiny_model: Any, tiny_tokenizer: Any
) -> None:
    """One window of a batch alone would tell a speed that the model does not have."""
    ticks: list[Progress] = []
    result = score(
        tiny_model, tiny_tokenizer, corpus_of(*TEXTS), batch_tokens=4096, on_progress=ticks.append
    )
    assert len(result.counts) > 1
    assert [tick.done for tick in ticks] == [0, result.counts.sum()]


# ----------------------------------------------------------------------------- bad input


def test_a_loss_that_is_not_finite_names_the_document(tiny_model: Any, tiny_tokenizer: Any) -> None:
    rare = tiny_tokenizer("日")["input_ids"][-1]
    with torch.no_grad():
        tiny_model.model.embed_tokens.weight[rare] = float("nan")
    with pytest.raises(ScoringError, match=r"d1: the loss of token \d+ is nan"):
        score(tiny_model, tiny_tokenizer, corpus_of(*TEXTS))


def test_a_prompt_that_fills_the_window(tiny_model: Any, tiny_tokenizer: Any) -> None:
    document = Document(id="long-one", prompt=TEXTS[2], text="yes")
    with pytest.raises(DataError, match=r"document long-one: its prompt of \d+ tokens fills"):
        score(tiny_model, tiny_tokenizer, corpus_of(document), score_on="completion")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (Document(id="d", text="no prompt"), "needs the data's columns"),
        (Document(id="d", prompt="so", text=""), "completion is empty"),
        (Document(id="d", text="", messages=(("user", "hi"),)), "no message of the assistant"),
        (
            Document(id="d", text="", messages=(("user", "hi"), ("assistant", ""))),
            "completion is empty",
        ),
    ],
)
def test_documents_without_a_completion(
    tiny_model: Any, tiny_tokenizer: Any, document: Document, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        score(tiny_model, tiny_tokenizer, corpus_of(document), score_on="completion")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"protocol": "chunks", "max_length": 250}, "make no full chunk of 250"),
        ({"protocol": "chunks", "tokens": 3}, "make no full chunk"),
        ({"protocol": "stream", "score_on": "completion"}, "goes with protocol documents"),
        ({"tokens": 3}, "less than a token for each of 5 documents"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    tiny_model: Any, tiny_tokenizer: Any, fields: dict[str, Any], message: str
) -> None:
    texts = TEXTS if fields.get("max_length") != 250 else TEXTS[:1]
    corpus = corpus_of(*texts)
    # The spec's own checks are elsewhere: here the scorer must hold by itself.
    spec = SimpleNamespace(**{**PerplexitySpec(on="test").model_dump(), "max_length": 32, **fields})
    with pytest.raises(DataError, match=message):
        score_perplexity(
            tiny_model,
            tiny_tokenizer,
            corpus,
            spec,  # type: ignore[arg-type]
            metric="perplexity",
            max_tokens_per_document=None,
            job="",
            on_progress=lambda progress: None,
        )


def test_a_window_longer_than_the_model(tiny_model: Any, tiny_tokenizer: Any) -> None:
    with pytest.raises(ScoringError, match="max_length 512 is more than the model's 256 positions"):
        score(tiny_model, tiny_tokenizer, corpus_of(TEXTS[2] * 9), max_length=512)
    result = score(tiny_model, tiny_tokenizer, corpus_of(TEXTS[0]), max_length=512)
    assert result.counts[0] < 256


def test_a_tokenizer_of_another_model(tiny_model: Any, tiny_tokenizer: Any) -> None:
    tiny_model.resize_token_embeddings(100)
    with pytest.raises(ScoringError, match="does not belong to the model"):
        score(tiny_model, tiny_tokenizer, corpus_of(*TEXTS))
