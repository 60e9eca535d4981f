"""Gives trl a corpus in the form that it takes: text, prompt and completion, or messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evalkit.errors import TrainingError
from evalkit.records import Corpus, Document
from evalkit.suite import TrainingSpec

if TYPE_CHECKING:
    import datasets


def training_dataset(name: str, corpus: Corpus, training: TrainingSpec) -> datasets.Dataset:
    """The documents as trl takes them: text, prompt and completion, or messages.

    Raises:
        TrainingError: there are none, or a completion is asked for that they do not have.
    """
    import datasets

    if not corpus.documents:
        raise TrainingError(f"{name}: {corpus.origin} has no documents to train on")
    datasets.disable_progress_bars()
    rows = [_row(name, document, training.completion_only) for document in corpus.documents]
    if len({tuple(row) for row in rows}) != 1:
        raise TrainingError(f"{name}: {corpus.origin} mixes documents of several forms")
    return datasets.Dataset.from_list(rows)


def _row(name: str, document: Document, completion_only: bool) -> dict[str, Any]:
    if document.messages is not None:
        messages = [{"role": role, "content": text} for role, text in document.messages]
        if completion_only:
            return {"prompt": messages[:-1], "completion": messages[-1:]}
        return {"messages": messages}
    if document.prompt is not None:
        return {"prompt": document.prompt, "completion": document.text}
    if completion_only:
        raise TrainingError(
            f"{name}: completion_only needs documents with a prompt and a completion, or messages; "
            f"document {document.id} is plain text"
        )
    return {"text": document.text}
