"""Tokenised corpora in the cache: made once, and memory-mapped by every variant and every run."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from evalkit.digests import digest_json
from evalkit.errors import WeightsError
from evalkit.records import Corpus
from evalkit.scoring.tokens import TokenText
from evalkit.seals import is_unbroken

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENS = "tokens"
"""The folder's name in the cache."""
_REVISION = 1
"""Part of an entry's key: raised when the same text is cut otherwise, or kept otherwise."""


def kept_tokens(
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    how: str,
    make: Callable[[], Sequence[TokenText]],
    cache: Path | None,
) -> Sequence[TokenText]:
    """Tokenises a corpus once, and reads it from the cache afterwards.

    What cannot be kept (a full disk, a cache that is read only) is only made again. So is what is
    damaged: an entry is believed if every file of it is what its seal says.

    Args:
        tokenizer: a slow one has no description to be known by, and is asked each time.
        corpus: the documents.
        how: whatever decides the tokens besides these two: "documents, score_on all".
        make: tokenises.
        cache: evalkit's cache folder; None keeps nothing.

    Returns:
        The texts in `make`'s order, tokens and character ends memory-mapped: not to be written to.
    """
    key = None if cache is None else _key(tokenizer, corpus, how)
    if cache is None or key is None:
        return make()
    folder = cache / TOKENS / key
    found = _read(folder, cache, tokenizer)
    if found is not None:
        return found
    texts = make()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{key}.lock")):
            # Another process may have been first.
            if not is_unbroken(folder, cache, unsealed=False):
                _write(texts, folder)
    except (OSError, WeightsError):
        return texts
    return _read(folder, cache, tokenizer) or texts


def _key(tokenizer: PreTrainedTokenizerBase, corpus: Corpus, how: str) -> str | None:
    """What two tokenisations must share to be the same; None where that cannot be told."""
    template = str(tokenizer.chat_template or "")
    if not tokenizer.is_fast or "strftime_now" in template:  # it may write today's date
        return None
    content = {
        "corpus": corpus.digest,
        "how": how,
        "tokenizer": hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
        "class": type(tokenizer).__name__,
        "special": [tokenizer.bos_token_id, tokenizer.eos_token_id],
        "chat_template": template,
        "versions": [importlib.metadata.version(name) for name in ("tokenizers", "transformers")],
        "revision": _REVISION,
    }
    return digest_json(content)[:32]


def _write(texts: Sequence[TokenText], folder: Path) -> None:
    from datasets import Dataset, Features, List, Value

    from evalkit.weights.folders import written_aside

    columns = {
        "text": [text.text for text in texts],
        "ids": [text.ids for text in texts],
        "ends": [text.ends for text in texts],
        "scored_from": [text.scored_from for text in texts],
    }
    numbers = Value("int64")
    features = Features(
        {
            "text": Value("large_string"),
            "ids": List(numbers),
            "ends": List(numbers),
            "scored_from": numbers,
        }
    )
    with written_aside(folder, sealed=True) as aside, _no_bars():
        Dataset.from_dict(columns, features=features).save_to_disk(aside)


def _read(
    folder: Path, cache: Path, tokenizer: PreTrainedTokenizerBase
) -> tuple[TokenText, ...] | None:
    """An entry's texts; None where there is none, or it is damaged."""
    if not is_unbroken(folder, cache, unsealed=False):
        return None
    from datasets import Dataset

    table = Dataset.load_from_disk(str(folder), keep_in_memory=False).data
    names = ("text", "ids", "ends", "scored_from")
    return tuple(
        TokenText(
            text.as_py(),
            ids.values.to_numpy(zero_copy_only=True),
            ends.values.to_numpy(zero_copy_only=True),
            tokenizer,
            scored_from.as_py(),
        )
        for text, ids, ends, scored_from in zip(*(table.column(n) for n in names), strict=True)
    )


@contextmanager
def _no_bars() -> Iterator[None]:
    import datasets

    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
