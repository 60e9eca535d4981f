"""Documents from files, a hub, or Python itself."""

from evalkit.corpora.loading import (
    BUILTIN,
    HUB_TIMEOUT,
    ID_LENGTH,
    corpus_digest,
    load_corpus,
)

__all__ = [
    "BUILTIN",
    "HUB_TIMEOUT",
    "ID_LENGTH",
    "corpus_digest",
    "load_corpus",
]
