"""Documents and the corpora that hold them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Document:
    """One document of a corpus.

    Exactly one of three forms: `text` alone; `prompt` and `text` (the completion); or
    `messages`, (role, content) pairs that the tokenizer's chat template renders.
    """

    id: str
    """Stable: a digest of the content, so that runs are paired by it."""
    text: str
    prompt: str | None = None
    messages: tuple[tuple[str, str], ...] | None = None
    cluster: str | None = None
    """Documents of one cluster are not independent (one conversation, say)."""


@dataclass(frozen=True)
class Corpus:
    """Documents in order, with where they came from and a digest of all of it."""

    name: str
    documents: tuple[Document, ...]
    origin: str
    """For people: 'builtin:python-reference (Python 3.11.7), test split, 42 of 79 topics'."""
    digest: str
