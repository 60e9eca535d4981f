"""Leakage: scored documents that are in the training data too, word for word or nearly.

Two documents are *exact* duplicates where their words are the same: letters' case, punctuation and
spaces do not count (Unicode NFKC, casefold). They are *near* duplicates where the resemblance of
their sets of `SHINGLE` words in a row is at least `THRESHOLD`: |A ∩ B| / |A ∪ B|, after A. Broder,
"On the resemblance and containment of documents", 1997. Candidates come from MinHash and
locality-sensitive hashing (`datasketch`) and are then compared exactly, so that no estimate is
told. A short text that is quoted inside a long one does not resemble it, and is not found.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
import zlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evalkit.records import Corpus, Document
from evalkit.records.leakage import Overlap, overlap_from_json

SHINGLE = 5
"""Words in a row: one changed word takes five shingles with it."""
THRESHOLD = 0.7
"""Resemblance of near-duplicates: about one changed word in thirty."""
MOST_DOCUMENTS = 200_000
"""Of both corpora together; of more, only exact duplicates are looked for."""
_REVISION = 1
"""Part of a kept result's name: raised when another result may be found."""
_BANDS, _ROWS = 32, 4
"""Of the signatures: with resemblance s, a pair is a candidate with probability
1 − (1 − s^rows)^bands, which is 99.98 % at the threshold and 0.3 % at s = 0.1."""
_MIXER = np.uint64(0x9E3779B97F4A7C15)
# Scripts without spaces between words count by the character.
_UNSPACED = r"\u3040-\u30ff\u3400-\u9fff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")

Shingles = NDArray[np.uint32]


def known_overlap(train: Corpus, scored: Corpus, cache: Path) -> Overlap:
    """What `find_overlap` finds, kept in the cache folder by the digests of both corpora."""
    names = f"{train.digest} {scored.digest} {_REVISION} {SHINGLE} {THRESHOLD}"
    note = cache / "leakage" / f"{hashlib.sha256(names.encode()).hexdigest()[:32]}.json"
    try:
        known = overlap_from_json(json.loads(note.read_text(encoding="utf-8")))
        return replace(known, train=train.name, scored=scored.name)
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        found = find_overlap(train, scored)
    with suppress(OSError):  # where it cannot be kept it is found again
        note.parent.mkdir(parents=True, exist_ok=True)
        aside = note.with_suffix(f".{os.getpid()}.tmp")
        aside.write_text(json.dumps(found.to_json()), encoding="utf-8")
        aside.replace(note)
    return found


def find_overlap(train: Corpus, scored: Corpus) -> Overlap:
    """Looks for every scored document in the training data.

    Args:
        train: what was trained on.
        scored: what is scored. Documents without a word are left out of both.

    Returns:
        Counts of scored documents, and the pair that resembles most.
    """
    kept = [(doc, words) for doc in scored.documents if (words := words_of(doc))]
    learnt = [(doc, words) for doc in train.documents if (words := words_of(doc))]
    first = {digest: doc.id for doc, words in reversed(learnt) for digest in [_digest(words)]}
    exact = {doc.id: first[d] for doc, words in kept if (d := _digest(words)) in first}
    others = [(doc, words) for doc, words in kept if doc.id not in exact]
    too_many = len(kept) + len(learnt) > MOST_DOCUMENTS
    near = {} if too_many or not others else _near(others, learnt)
    found = Overlap(
        train=train.name,
        scored=scored.name,
        n_train=len(learnt),
        n_scored=len(kept),
        exact=len(exact),
        near=len(near),
        threshold=THRESHOLD,
        near_skipped=f"more than {MOST_DOCUMENTS:,} documents" if too_many else "",
    )
    pairs = [(ours, theirs, 1.0) for ours, theirs in exact.items()]
    pairs += [(ours, theirs, value) for ours, (theirs, value) in near.items()]
    return replace(found, worst=max(pairs, key=lambda pair: pair[2])) if pairs else found


def words_of(document: Document) -> list[str]:
    """All words of a document, its prompt or its messages, without case and punctuation."""
    parts = [document.prompt or "", document.text]
    parts += [content for _, content in document.messages or ()]
    return _WORD.findall(unicodedata.normalize("NFKC", "\n".join(parts)).casefold())


def shingles_of(words: list[str]) -> Shingles:
    """The distinct hashes of `SHINGLE` words in a row; of a shorter text, of all its words."""
    hashes = np.array([zlib.crc32(word.encode("utf-8", "replace")) for word in words], np.uint64)
    width = min(SHINGLE, len(words))
    mixed = np.zeros(len(words) - width + 1, np.uint64)
    for place in range(width):
        # Arithmetic modulo 2^64 is meant: numpy's arrays wrap around.
        mixed = (mixed ^ hashes[place : place + len(mixed)]) * _MIXER
        mixed ^= mixed >> np.uint64(29)
    return np.unique((mixed >> np.uint64(32)).astype(np.uint32))


def resemblance(ours: Shingles, theirs: Shingles) -> float:
    """|A ∩ B| / |A ∪ B| of two sets of shingles."""
    common = len(np.intersect1d(ours, theirs, assume_unique=True))
    return common / (len(ours) + len(theirs) - common)


def _near(
    scored: list[tuple[Document, list[str]]], learnt: list[tuple[Document, list[str]]]
) -> dict[str, tuple[str, float]]:
    """By scored document: the training document that resembles it most, from `THRESHOLD` on."""
    from datasketch import MinHash, MinHashLSH

    sets = {doc.id: shingles_of(words) for doc, words in scored}
    # Candidates are compared exactly: a missed one costs more than one too many.
    index = MinHashLSH(num_perm=_BANDS * _ROWS, params=(_BANDS, _ROWS))
    empty = MinHash(num_perm=_BANDS * _ROWS, hashfunc=int)
    for name, shingles in sets.items():
        index.insert(name, _sketch(empty, shingles))
    best: dict[str, tuple[str, float]] = {}
    for doc, words in learnt:
        shingles = shingles_of(words)
        for name in index.query(_sketch(empty, shingles)):
            value = resemblance(sets[name], shingles)
            if value >= THRESHOLD and (name not in best or value > best[name][1]):
                best[name] = (doc.id, value)
    return best


def _sketch(empty: Any, shingles: Shingles) -> Any:
    """A copy, for drawing the permutations anew takes longer than the sketch."""
    sketch = empty.copy()
    sketch.update_batch(shingles.tolist())
    return sketch


def _digest(words: list[str]) -> bytes:
    return hashlib.sha256(" ".join(words).encode("utf-8", "replace")).digest()
