"""Tokenised corpora: made once, read from a memory map, never believed when damaged."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from evalkit.corpora import corpus_digest
from evalkit.records import Corpus, Document
from evalkit.scoring import kept_tokens, layout, pairs
from evalkit.scoring.kept_tokens import TOKENS
from evalkit.suite import PerplexitySpec

TEXTS = ("The model reads the words.", "", "A quantised weight: 日本 naïve.", "x" * 50)


def corpus_of(*documents):
    return Corpus("test", documents, "here", corpus_digest(documents))


PLAIN = corpus_of(*(Document(str(n), text) for n, text in enumerate(TEXTS)))
PROMPTED = corpus_of(*(Document(str(n), text, prompt="Say: ") for n, text in enumerate("abc")))
CHAT = corpus_of(Document("0", "", messages=(("user", "Hi"), ("assistant", "The words"))))


def spec(**fields):
    return PerplexitySpec(on="test", max_length=16, **fields)


def entries(cache):
    folder = cache / TOKENS
    return sorted(entry for entry in folder.iterdir() if entry.is_dir()) if folder.exists() else []


def told(laid_out):
    """All that a layout says, comparable."""
    windows = [
        (w.inputs.tolist(), w.targets.tolist(), w.text, w.first, w.unit) for w in laid_out.windows
    ]
    spans = [text.pieces(0, len(text.ids)) for text in laid_out.texts]
    return windows, spans, laid_out.unit_ids, laid_out.clusters


@pytest.fixture
def no_tokenizing(monkeypatch):
    """Calling it makes every tokenisation from now on an error."""

    def refuse(*arguments, **options):
        raise AssertionError("tokenised again")

    def switch_off():
        for module, name in (
            (layout, "tokenize_document"), (layout, "tokenize"), (pairs, "tokenize"),
        ):  # fmt: skip
            monkeypatch.setattr(module, name, refuse)

    return switch_off


CASES = [
    (layout.plan_layout, PLAIN, spec(), None),
    (layout.plan_layout, PLAIN, spec(tokens=20), 9),
    (layout.plan_layout, PLAIN, spec(protocol="stream", tokens=30), None),
    (layout.plan_layout, PLAIN, spec(protocol="chunks"), None),
    (layout.plan_layout, PROMPTED, spec(score_on="completion"), None),
    (layout.plan_layout, CHAT, spec(), None),
    (pairs.plan_pairs, PROMPTED, spec(score_on="completion"), None),
]


@pytest.mark.parametrize(("plan", "corpus", "wanted", "cap"), CASES)
def test_what_is_kept_is_what_was_tokenised(
    plan, corpus, wanted, cap, tiny_tokenizer, tmp_path, no_tokenizing
):
    fresh = told(plan(tiny_tokenizer, corpus, wanted, cap))
    first = told(plan(tiny_tokenizer, corpus, wanted, cap, tmp_path))
    assert len(entries(tmp_path)) == 1
    no_tokenizing()
    assert told(plan(tiny_tokenizer, corpus, wanted, cap, tmp_path)) == first == fresh


def test_tokens_are_memory_mapped_and_windows_are_not(tiny_tokenizer, tmp_path):
    found = layout.plan_layout(tiny_tokenizer, PLAIN, spec(), None, tmp_path)
    assert not any(text.ids.flags.owndata or text.ids.flags.writeable for text in found.texts)
    assert all(w.targets.flags.writeable for w in found.windows)  # torch shares their memory
    (entry,) = entries(tmp_path)
    if sys.platform == "linux":
        assert str(next(entry.glob("*.arrow"))) in Path("/proc/self/maps").read_text()


def test_lengths_share_an_entry_and_what_decides_tokens_does_not(
    tiny_tokenizer, bos_tokenizer, tmp_path
):
    def count(tokenizer, corpus, wanted):
        layout.plan_layout(tokenizer, corpus, wanted, None, tmp_path)
        return len(entries(tmp_path))

    assert count(tiny_tokenizer, PROMPTED, spec()) == 1
    assert count(tiny_tokenizer, PROMPTED, spec(tokens=9)) == 1
    assert count(tiny_tokenizer, PROMPTED, spec(score_on="completion")) == 2
    assert count(tiny_tokenizer, PROMPTED, spec(protocol="stream")) == 3
    assert count(bos_tokenizer, PROMPTED, spec()) == 4
    assert count(tiny_tokenizer, PLAIN, spec()) == 5


def test_tokenizers_with_one_vocabulary_that_cut_otherwise_share_nothing(tiny_tokenizer, tmp_path):
    """What is known of a tokenizer is all of it: its merges too."""
    import json

    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    written = json.loads(tiny_tokenizer.backend_tokenizer.to_str())
    written["model"]["merges"] = written["model"]["merges"][:5]
    other = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(written)), bos_token="<s>", eos_token="</s>"
    )
    assert other.get_vocab() == tiny_tokenizer.get_vocab()
    first = layout.plan_layout(tiny_tokenizer, PLAIN, spec(), None, tmp_path)
    second = layout.plan_layout(other, PLAIN, spec(), None, tmp_path)
    assert second.n_tokens > first.n_tokens


@pytest.mark.parametrize("damage", ["flip", "cut", "seal", "gone"])
def test_a_damaged_entry_is_made_anew(damage, tiny_tokenizer, tmp_path):
    whole = told(layout.plan_layout(tiny_tokenizer, PLAIN, spec(), None, tmp_path))
    (entry,) = entries(tmp_path)
    arrow = next(entry.glob("*.arrow"))
    content = arrow.read_bytes()
    if damage == "flip":
        at = content.find(np.int64(whole[0][0][1][0]).tobytes())
        arrow.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    elif damage == "cut":
        arrow.write_bytes(content[: len(content) // 2])
    elif damage == "seal":
        (entry / "sealed.json").unlink()
    else:
        arrow.unlink()
    assert told(layout.plan_layout(tiny_tokenizer, PLAIN, spec(), None, tmp_path)) == whole
    assert next(entry.glob("*.arrow")).read_bytes() == content


def test_what_cannot_be_kept_is_tokenised(tiny_tokenizer, tmp_path):
    from transformers import ByT5Tokenizer

    taken = tmp_path / "file"
    taken.write_text("no folder")
    fresh = told(layout.plan_layout(tiny_tokenizer, PLAIN, spec(), None))
    assert told(layout.plan_layout(tiny_tokenizer, PLAIN, spec(), None, taken)) == fresh
    layout.plan_layout(ByT5Tokenizer(), PLAIN, spec(), None, tmp_path)
    assert not entries(tmp_path)


def test_a_template_that_writes_the_date_is_rendered_each_time(tiny_tokenizer, tmp_path):
    from copy import deepcopy

    dated = deepcopy(tiny_tokenizer)
    dated.chat_template = "{{ strftime_now('%Y') }}" + dated.chat_template
    layout.plan_layout(dated, CHAT, spec(), None, tmp_path)
    assert not entries(tmp_path)


def test_what_another_process_kept_meanwhile_is_not_written_again(
    tiny_tokenizer, tmp_path, monkeypatch
):
    written, real = [], kept_tokens._write

    def counted(texts, folder):
        written.append(folder)
        real(texts, folder)

    def overtaken():
        kept_tokens.kept_tokens(tiny_tokenizer, PLAIN, "so", make, tmp_path)
        return make()

    def make():
        return [layout.tokenize(tiny_tokenizer, text, special=True) for text in TEXTS]

    monkeypatch.setattr(kept_tokens, "_write", counted)
    kept_tokens.kept_tokens(tiny_tokenizer, PLAIN, "so", overtaken, tmp_path)
    assert len(written) == 1
