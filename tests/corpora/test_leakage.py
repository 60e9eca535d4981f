"""Scored documents in the training data: exact, near, and not where there are none."""

import json
import random

import pytest

from evalkit.corpora.leakage import (
    MOST_DOCUMENTS,
    THRESHOLD,
    find_overlap,
    known_overlap,
    resemblance,
    shingles_of,
    words_of,
)
from evalkit.records import Corpus, Document
from evalkit.records.leakage import overlap_from_json

DRAW = random.Random(0)
VOCABULARY = [f"word{number}" for number in range(3000)]


def text(length=60):
    return " ".join(DRAW.choices(VOCABULARY, k=length))


def corpus(name, texts, digest=None):
    documents = tuple(Document(f"{name}{n}", text) for n, text in enumerate(texts))
    return Corpus(name, documents, "here", digest or name)


def with_changed_words(text, count):
    words = text.split()
    for place in range(count):
        words[10 + 20 * place] = "changed"
    return " ".join(words)


TRAIN = [text() for _ in range(300)]


def test_exact_duplicates_do_not_depend_on_case_punctuation_and_spaces():
    scored = [TRAIN[7].upper() + " !", TRAIN[8].replace(" ", ",\n"), text()]
    found = find_overlap(corpus("train", TRAIN), corpus("test", scored))
    assert (found.exact, found.near, found.n_scored, found.n_train) == (2, 0, 3, 300)
    assert found.worst in (("test0", "train7", 1.0), ("test1", "train8", 1.0))


def test_near_duplicates_are_found_and_their_resemblance_is_exact():
    scored = [text(), with_changed_words(TRAIN[100], 1), text()]
    found = find_overlap(corpus("train", TRAIN), corpus("test", scored))
    assert (found.exact, found.near) == (0, 1)
    # 60 words are 56 shingles, and one changed word takes 5: 51 of 61 are common.
    assert found.worst == ("test1", "train100", pytest.approx(51 / 61))
    assert "1 of 3 documents of test is also in the training data train" in found.sentence
    assert "the worst pair is test1 and train100 (resemblance 0.84)" in found.sentence


def test_below_the_threshold_nothing_is_told():
    scored = [with_changed_words(TRAIN[5], 3), TRAIN[6].rpartition("word")[0] + text(80)]
    ours, theirs = (shingles_of(words_of(Document("", text))) for text in (scored[0], TRAIN[5]))
    assert 0.3 < resemblance(ours, theirs) < THRESHOLD
    found = find_overlap(corpus("train", TRAIN), corpus("test", scored))
    assert (found.leaked, found.worst) == (0, None)
    assert "none is exactly or nearly in the training data" in found.sentence


def test_every_near_duplicate_of_many_is_found():
    """Candidates are drawn by hashing: of 200 pairs above the threshold, none may be missed."""
    train = [text(100) for _ in range(200)]
    scored = [with_changed_words(text, 2) for text in train]
    found = find_overlap(corpus("train", train), corpus("test", scored))
    assert found.near == 200


def test_chats_prompts_and_scripts_without_spaces():
    chat = Document("a", "", messages=(("user", "How many bits?"), ("assistant", "Four bits.")))
    pair = Document("b", "Four bits.", prompt="How many bits?")
    chinese = "量化后的权重位于网格上适配器只会稍微移动它而不会更多然后合并会把它舍入掉"
    learnt = Corpus("train", (pair, Document("c", chinese)), "", "train")
    nearly = Document("d", chinese + "。的")
    found = find_overlap(learnt, Corpus("test", (chat, nearly), "", "test"))
    assert (found.exact, found.near) == (1, 1)


def test_texts_without_a_word_are_no_duplicates_of_each_other():
    found = find_overlap(corpus("train", ["", "...", "one"]), corpus("test", ["", "!"]))
    assert (found.leaked, found.n_scored, found.n_train) == (0, 0, 1)


def test_short_texts_are_compared_too():
    found = find_overlap(corpus("train", ["Yes.", "No way"]), corpus("test", ["yes", "no"]))
    assert (found.exact, found.near) == (1, 0)


def test_too_many_documents_are_compared_exactly_and_the_rest_is_said(monkeypatch):
    monkeypatch.setattr("evalkit.corpora.leakage.MOST_DOCUMENTS", 100)
    scored = [TRAIN[0], with_changed_words(TRAIN[1], 1)]
    found = find_overlap(corpus("train", TRAIN), corpus("test", scored))
    assert (found.exact, found.near) == (1, 0)
    assert found.near_skipped
    assert MOST_DOCUMENTS > 100_000


def test_it_is_worked_out_once_for_two_digests(tmp_path, monkeypatch):
    train, scored = corpus("train", TRAIN[:20]), corpus("test", TRAIN[:2])
    first = known_overlap(train, scored, tmp_path)

    def never(*args):
        raise AssertionError("worked out again")

    monkeypatch.setattr("evalkit.corpora.leakage.find_overlap", never)
    renamed = known_overlap(corpus("other", TRAIN[:20], "train"), scored, tmp_path)
    assert renamed.train == "other"
    assert renamed.exact == first.exact == 2
    (note,) = (tmp_path / "leakage").iterdir()
    note.write_text("cut {")
    with pytest.raises(AssertionError, match="worked out again"):
        known_overlap(train, scored, tmp_path)


def test_json_gives_the_same_back():
    found = find_overlap(corpus("train", TRAIN), corpus("test", TRAIN[:3]))
    assert overlap_from_json(json.loads(json.dumps(found.to_json()))) == found
