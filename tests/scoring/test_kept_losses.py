"""What is kept of a perplexity's tokens: the likeliest ones against an independent softmax."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evalkit.corpora import corpus_digest
from evalkit.records import Corpus, Document, Score, TokenLosses
from evalkit.scoring import forward, kept_losses, logit_rows
from evalkit.scoring.perplexity import score_perplexity
from evalkit.scoring.windows import Window
from evalkit.suite import PerplexitySpec

TEXTS = (
    "The model reads the words and the words are scored one by one.",
    "A quantised weight lies on a grid; an adapter moves it a little, naïvely – 日本.",
    "Perplexity is the exponential of the mean loss of every token. " * 4,
    "x",
)
LENGTH = 32


def score(model: Any, tokenizer: Any, **fields: Any) -> Score:
    documents = tuple(Document(id=f"d{n}", text=text) for n, text in enumerate(TEXTS))
    return score_perplexity(
        model,
        tokenizer,
        Corpus("test", documents, "a test", corpus_digest(documents)),
        PerplexitySpec(**{"on": "test", "max_length": LENGTH, **fields}),
        metric="perplexity",
        max_tokens_per_document=None,
        job="score tiny",
        on_progress=lambda progress: None,
    )


def probabilities(model: Any, ids: list[int]) -> np.ndarray:
    """Of every token of a document, window by window: float64 throughout, one row at a time."""
    exact, read, rows = deepcopy(model).double(), [0, *ids], []
    for begin in range(0, len(ids), LENGTH):
        end = min(begin + LENGTH, len(ids))
        with torch.no_grad():
            logits = exact(torch.tensor([read[max(0, end - LENGTH) : end]])).logits[0]
        rows.append(torch.softmax(logits, -1)[-(end - begin) :])
    return torch.cat(rows).numpy()


@pytest.mark.parametrize("batch_tokens", [1, 100, 4096])
@pytest.mark.parametrize("piece", [3 * 320 + 1, 2**20])
@pytest.mark.parametrize("rows", [7, 2048])
def test_the_likeliest_tokens_are_those_of_a_float64_softmax(
    tiny_model: Any,
    tiny_tokenizer: Any,
    batch_tokens: int,
    rows: int,
    piece: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(forward.PIECE, "cpu", piece)
    monkeypatch.setattr(logit_rows, "LOGIT_ROWS", rows)
    kept = score(tiny_model, tiny_tokenizer, batch_tokens=batch_tokens).token_losses
    assert [part.unit for part in kept] == [0, 1, 2, 3]
    for part, text in zip(kept, TEXTS, strict=True):
        wanted = probabilities(tiny_model, tiny_tokenizer(text)["input_ids"])
        top = wanted.argmax(-1).tolist()
        assert part.top_tokens == tuple(tiny_tokenizer.decode([token]) for token in top)
        assert part.top_probabilities.dtype == np.float32
        np.testing.assert_allclose(part.top_probabilities, wanted.max(-1), rtol=1e-5)
    assert len(kept[2].tokens) > 2 * LENGTH, "no document has several windows"
    assert len(set(kept[2].top_tokens)) > 5


def test_where_several_are_likeliest_the_first_is_told(
    tiny_model: Any, tiny_tokenizer: Any
) -> None:
    with torch.no_grad():
        tiny_model.lm_head.weight.zero_()
    for part in score(tiny_model, tiny_tokenizer).token_losses:
        assert set(part.top_tokens) == {"<s>"}
        np.testing.assert_allclose(part.top_probabilities, 1 / 320, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_asking_for_them_moves_no_loss(
    tiny_model: Any, tiny_tokenizer: Any, dtype: torch.dtype
) -> None:
    model = tiny_model.to(dtype)
    without = score(model, tiny_tokenizer, token_losses=0)
    assert score(model, tiny_tokenizer).sums.tobytes() == without.sums.tobytes()
    ids = np.random.default_rng(0).integers(3, 320, 41).astype(np.int64)
    plain = Window(ids[:-1], ids[1:], 0, 0, 0)
    asked = [replace(plain, n_tops=count) for count in (0, 7, 40)]
    found = [forward.forward_losses(model, [window])[0] for window in asked]
    assert len({scores.losses.tobytes() for scores in found}) == 1
    assert [len(scores.top_ids) for scores in found] == [0, 7, 40]
    assert found[0].top_probabilities.dtype == np.float32
    assert found[2].top_ids[:7].tolist() == found[1].top_ids.tolist()


def test_only_windows_that_are_kept_are_searched(
    tiny_model: Any, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[int] = []
    real = forward._argmax

    def counted(logits: torch.Tensor) -> torch.Tensor:
        searched.append(len(logits))
        return real(logits)

    monkeypatch.setattr(forward, "_argmax", counted)
    result = score(tiny_model, tiny_tokenizer, token_losses=1)
    assert sum(searched) == result.counts[0]
    searched.clear()
    score(tiny_model, tiny_tokenizer, token_losses=0)
    assert searched == []


def test_of_a_long_document_the_first_tokens_are_kept(
    tiny_model: Any, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = score(tiny_model, tiny_tokenizer)
    monkeypatch.setattr(kept_losses, "KEPT_TOKENS", LENGTH + 8)
    cut = score(tiny_model, tiny_tokenizer)
    assert cut.sums.tobytes() == whole.sums.tobytes()
    for short, long in zip(cut.token_losses, whole.token_losses, strict=True):
        count = min(len(long.tokens), LENGTH + 8)
        assert short.tokens == long.tokens[:count]
        assert short.top_tokens == long.top_tokens[:count]
        assert short.losses.tobytes() == long.losses[:count].tobytes()
        assert short.top_probabilities.tobytes() == long.top_probabilities[:count].tobytes()
    assert len(cut.token_losses[2].tokens) == LENGTH + 8 < len(whole.token_losses[2].tokens)


def test_windows_of_a_stream_have_them_too(tiny_model: Any, tiny_tokenizer: Any) -> None:
    result = score(tiny_model, tiny_tokenizer, protocol="stream", stride=7)
    for part, count in zip(result.token_losses, result.counts, strict=True):
        assert len(part.top_tokens) == len(part.tokens) == count


def test_the_suite_reference_names_the_cap() -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "suite.md"
    assert f"Keep the first {kept_losses.KEPT_TOKENS} tokens" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("tops", "count", "message"),
    [
        (("a",), 1, "1 likeliest tokens and 1 probabilities of 2 tokens"),
        (("a", "b"), 0, "2 likeliest tokens and 0 probabilities"),
        ((), 2, "0 likeliest tokens and 2 probabilities"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(
    tops: tuple[str, ...], count: int, message: str
) -> None:
    losses = np.zeros(2, np.float32)
    with pytest.raises(ValueError, match=message):
        TokenLosses(0, ("a", "b"), losses, tops, np.zeros(count, np.float32))
    with pytest.raises(ValueError, match="2 losses of 1 tokens"):
        TokenLosses(0, ("a",), losses)
