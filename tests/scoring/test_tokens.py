"""Tokens and their characters: spans that part the text exactly, digests, special tokens."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evalkit.errors import DataError, ScoringError
from evalkit.records import Document
from evalkit.scoring.tokens import (
    added_bos,
    prefix_token,
    render,
    token_text,
    tokenize,
    tokenize_document,
    tokenizer_digest,
)


@pytest.fixture(scope="module")
def slow_tokenizer() -> Any:
    """A tokenizer in Python, which knows no offsets: one token a byte."""
    from transformers import ByT5Tokenizer

    return ByT5Tokenizer()


@given(text=st.text(min_size=1, max_size=40), data=st.data())
def test_spans_side_by_side_part_the_text(
    text: str, data: st.DataObject, tiny_tokenizer: Any
) -> None:
    tokens = tokenize(tiny_tokenizer, text, special=False)
    count = len(tokens.ids)
    cuts = sorted(data.draw(st.lists(st.integers(0, count), max_size=4)))
    edges = [0, *cuts, count]
    spans = [tokens.span(first, stop) for first, stop in itertools.pairwise(edges)]
    assert "".join(spans) == text
    assert "".join(tokens.pieces(0, count)) == text


def test_a_character_of_several_tokens_goes_to_the_first(tiny_tokenizer: Any) -> None:
    tokens = tokenize(tiny_tokenizer, "a日b", special=False)
    assert len(tokens.ids) == 5
    assert tokens.pieces(0, 5) == ("a", "日", "", "", "b")


def test_slow_tokenizers_fall_back_to_decoding(slow_tokenizer: Any) -> None:
    text = "naïve words"
    tokens = tokenize(slow_tokenizer, text, special=False, scored_from_character=6)
    assert tokens.ends is None
    assert tokens.span(0, len(tokens.ids)) == text
    assert tokens.span(tokens.scored_from, len(tokens.ids)) == "words"


def test_a_token_by_itself(tiny_tokenizer: Any, slow_tokenizer: Any) -> None:
    the = tiny_tokenizer(" the")["input_ids"][0]
    assert token_text(tiny_tokenizer, the) == " the"
    assert token_text(tiny_tokenizer, 1) == "</s>"
    first_byte, *_ = tiny_tokenizer("日")["input_ids"]
    assert token_text(tiny_tokenizer, first_byte) == "\ufffd"
    assert token_text(tiny_tokenizer, tiny_tokenizer("\0")["input_ids"][0]) == "\0"
    assert token_text(tiny_tokenizer, 100_000) == ""
    assert token_text(slow_tokenizer, slow_tokenizer("n")["input_ids"][0]) == "n"


def test_a_sentencepiece_token_keeps_the_space_before_it() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({"▁the": 0, "re": 1, "<unk>": 2}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)
    assert tokenizer.decode([0]) == "the"
    assert [token_text(tokenizer, token) for token in (0, 1)] == [" the", "re"]


def test_special_tokens_only_where_asked(tiny_tokenizer: Any, bos_tokenizer: Any) -> None:
    assert tokenize(bos_tokenizer, "words", special=True).ids[0] == 0
    assert 0 not in tokenize(bos_tokenizer, "words", special=False).ids
    assert added_bos(bos_tokenizer) == 0
    assert added_bos(tiny_tokenizer) is None


def test_the_token_before_a_document(tiny_folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    assert prefix_token(tokenizer) == tokenizer.bos_token_id
    tokenizer.bos_token = None
    assert prefix_token(tokenizer) == tokenizer.eos_token_id
    tokenizer.eos_token = None
    with pytest.raises(ScoringError, match="neither BOS nor EOS"):
        prefix_token(tokenizer)


@pytest.mark.parametrize(
    ("prompt", "completion", "first"),
    [("all", " the words", " the words"), ("all ", "the words", " the words"), ("", "the", "the")],
)
def test_a_token_across_the_border_belongs_to_the_completion(
    tiny_tokenizer: Any, prompt: str, completion: str, first: str
) -> None:
    document = Document(id="d", prompt=prompt, text=completion)
    tokens = tokenize_document(tiny_tokenizer, document, "completion")
    assert tokens.span(tokens.scored_from, len(tokens.ids)) == first


def test_a_chat_template_that_begins_with_bos_does_not_double_it(tiny_folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    plain = tokenizer.chat_template
    messages = (("user", "hi"), ("assistant", "words"))
    document = Document(id="d", text="", messages=messages)
    expected = tokenize_document(tokenizer, document, "completion")
    tokenizer.chat_template = "{{ bos_token }}" + plain
    assert render(tokenizer, document)[0].startswith("<s>")
    tokens = tokenize_document(tokenizer, document, "completion")
    assert tokens.ids.tolist() == expected.ids.tolist()
    assert tokens.scored_from == expected.scored_from
    count = len(tokens.ids)
    assert tokens.pieces(0, count) == expected.pieces(0, count)


def test_messages_without_a_chat_template(tiny_folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    tokenizer.chat_template = None
    document = Document(id="talk", text="", messages=(("user", "hi"),))
    with pytest.raises(DataError, match=r"document talk is a list of messages.*no chat template"):
        render(tokenizer, document)


def test_a_template_that_rewrites_the_past_is_refused(tiny_folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    tokenizer.chat_template = "{{ messages | length }}" + tokenizer.chat_template
    messages = (("user", "hi"), ("assistant", "words"))
    with pytest.raises(DataError, match="differently once the reply is there"):
        render(tokenizer, Document(id="d", text="", messages=messages), "completion")


def test_the_digest_is_of_what_a_tokenizer_does(
    tiny_tokenizer: Any, bos_tokenizer: Any, tiny_folder: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    digest = tokenizer_digest(tiny_tokenizer)
    assert tokenizer_digest(tiny_tokenizer) == digest, "asked again"
    reloaded = AutoTokenizer.from_pretrained(tiny_folder)
    reloaded(["a", "bb"], padding="max_length", max_length=4, truncation=True)
    assert tokenizer_digest(reloaded) == digest
    reloaded.save_pretrained(tmp_path)
    assert tokenizer_digest(AutoTokenizer.from_pretrained(tmp_path)) == digest
    assert tokenizer_digest(bos_tokenizer) != digest
    reloaded.add_tokens(["extra"])
    assert tokenizer_digest(reloaded) != digest
