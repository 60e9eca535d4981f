"""Corpora: the documents that a suite trains on and scores, from files, a hub or Python itself."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evalkit.corpora import python_reference
from evalkit.corpora.checks import checked_text
from evalkit.corpora.files import SUFFIXES, Row, read_rows
from evalkit.errors import DataError, NetworkError
from evalkit.records import Corpus, Document

if TYPE_CHECKING:
    from evalkit.suite import DataSpec

BUILTIN = "builtin:"
ID_LENGTH = 16
HUB_TIMEOUT = 10.0
"""Seconds to wait for the hub's first answer."""


def load_corpus(name: str, spec: DataSpec, *, cache: Path) -> Corpus:
    """Read the documents that `spec` describes.

    `spec.dataset` is a file (.jsonl .json .csv .parquet .txt), `builtin:python-reference`, or the
    id of a hub dataset. A document's text may be empty: where documents are joined to a stream,
    it counts as a blank line, as it does for others who join them; otherwise there is nothing to
    score in it.

    Args:
        name: the corpus's name in the suite, for messages.
        spec: where it is and which columns matter.
        cache: folder below which hub datasets are kept.

    Returns:
        The documents in order. Equal ones get ids of their own, so that ids are unique.

    Raises:
        DataError: the corpus cannot be read, lacks a column, or has no text at all.
        NetworkError: a hub dataset that is not in the cache, and the hub cannot be reached.
    """
    place = f"data.{name}"
    if spec.limit is not None and spec.limit < 1:
        raise DataError(f"{place}.limit: {spec.limit} leaves no documents (allowed: 1 and more)")
    if spec.dataset.startswith(BUILTIN):
        documents, origin, salt = _builtin(place, spec)
    else:
        rows, origin = _hub_or_file(place, spec, cache)
        documents = [_document(row, spec) for row in _checked(rows, spec)]
        salt = ""
    total = len(documents)
    documents = documents[: spec.limit]
    if not any(_has_text(document) for document in documents):
        raise DataError(f"{place}: {origin} has no text in it: {total} documents, all empty")
    if len(documents) < total:
        origin += f", the first {len(documents)} of {total} documents"
    else:
        origin += f", {total} documents"
    numbered = _with_unique_ids(documents)
    return Corpus(name, numbered, origin, corpus_digest(numbered, salt))


def corpus_digest(documents: Iterable[Document], salt: str = "") -> str:
    """SHA-256 over every document's content and cluster, in order; `salt`: what else counts."""
    digest = hashlib.sha256(salt.encode())
    for document in documents:
        digest.update(_content(document) + b"\0" + json.dumps(document.cluster).encode() + b"\n")
    return digest.hexdigest()


def _content(document: Document) -> bytes:
    return json.dumps([document.text, document.prompt, document.messages]).encode()


def _has_text(document: Document) -> bool:
    return bool(document.text.strip() or document.messages)


def _with_unique_ids(documents: Iterable[Document]) -> tuple[Document, ...]:
    seen: Counter[str] = Counter()
    numbered = []
    for document in documents:
        base = hashlib.sha256(_content(document)).hexdigest()[:ID_LENGTH]
        seen[base] += 1
        count = seen[base]
        numbered.append(replace(document, id=base if count == 1 else f"{base}-{count}"))
    return tuple(numbered)


# ----------------------------------------------------------------------------- rows


def _columns(spec: DataSpec) -> list[str]:
    if spec.messages:
        wanted = [spec.messages]
    elif spec.prompt or spec.completion:
        wanted = [spec.prompt or "prompt", spec.completion or "completion"]
    else:
        wanted = [spec.text]
    return [*wanted, spec.cluster] if spec.cluster else wanted


def _checked(rows: Sequence[Row], spec: DataSpec) -> Iterable[Row]:
    """Every row that has the columns the suite names; the first that does not is an error."""
    for row in rows:
        for column in _columns(spec):
            if column not in row.values:
                there = ", ".join(map(str, row.values)) or "none"
                raise DataError(f"{row.place}: no column {column!r} (columns there: {there})")
        yield row


def _document(row: Row, spec: DataSpec) -> Document:
    cluster = _cluster(row, spec.cluster) if spec.cluster else None
    if spec.messages:
        return Document(id="", text="", messages=_messages(row, spec.messages), cluster=cluster)
    if spec.prompt or spec.completion:
        prompt = _text(row, spec.prompt or "prompt")
        completion = _text(row, spec.completion or "completion")
        return Document(id="", text=completion, prompt=prompt, cluster=cluster)
    return Document(id="", text=_text(row, spec.text), cluster=cluster)


def _text(row: Row, column: str) -> str:
    value = row.values[column]
    if not isinstance(value, str):
        raise DataError(f"{row.place}: column {column!r} is {_kind(value)}, not text")
    return checked_text(value, f"{row.place}: column {column!r}")


def _cluster(row: Row, column: str) -> str:
    value = row.values[column]
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise DataError(f"{row.place}: cluster column {column!r} is {_kind(value)}, not a name")
    return str(value)


def _messages(row: Row, column: str) -> tuple[tuple[str, str], ...]:
    value = row.values[column]
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise DataError(f"{row.place}: column {column!r} is {_kind(value)}, not a list of messages")
    messages = []
    for message in value:
        role = message.get("role") if isinstance(message, Mapping) else None
        content = message.get("content") if isinstance(message, Mapping) else None
        if not isinstance(role, str) or not isinstance(content, str):
            raise DataError(
                f"{row.place}: column {column!r}: a message needs the texts 'role' and 'content'"
            )
        checked_text(content, f"{row.place}: column {column!r}")
        messages.append((role, content))
    return tuple(messages)


def _kind(value: object) -> str:
    names = {type(None): "empty (null)", dict: "a mapping", list: "a list", bool: "true or false"}
    return names.get(type(value), f"{value!r:.40}")


# ----------------------------------------------------------------------------- sources


def _builtin(place: str, spec: DataSpec) -> tuple[list[Document], str, str]:
    known = f"{BUILTIN}python-reference"
    if spec.dataset != known:
        raise DataError(f"{place}.dataset: unknown {spec.dataset!r} (allowed: {known})")
    texts = python_reference.topics()
    split = python_reference.split_families(texts)
    if spec.split not in (None, "train", "test"):
        raise DataError(f"{place}.split: {known} has no {spec.split!r} (allowed: train, test)")
    chosen = [
        (topic, family[0])
        for part, members in split.items()
        if spec.split in (None, part)
        for family in members
        for topic in family
    ]
    documents = [
        Document(id="", text=texts[topic], cluster=family) for topic, family in sorted(chosen)
    ]
    version = python_reference.python_version()
    part = f"{spec.split} split" if spec.split else "both splits"
    origin = f"{known} ({version}), {part}, {len(chosen)} of {len(texts)} topics"
    return documents, origin, f"{known} {version}"


def _hub_or_file(place: str, spec: DataSpec, cache: Path) -> tuple[list[Row], str]:
    path = Path(spec.dataset).expanduser()
    if path.suffix.lower() in SUFFIXES:
        for key in ("split", "config", "revision"):
            if getattr(spec, key) is not None:
                raise DataError(f"{place}.{key}: goes with hub datasets, not with a file ({path})")
        return read_rows(path), spec.dataset
    if path.is_absolute() or spec.dataset.startswith((".", "~")) or path.exists():
        allowed = " ".join(SUFFIXES)
        raise DataError(f"{place}.dataset: cannot read {spec.dataset} (allowed: files {allowed})")
    if spec.split is None:
        raise DataError(f"{place}.split: say which split of {spec.dataset} (train, test, ...)")
    return _hub_rows(place, spec, cache)


def _hub_rows(place: str, spec: DataSpec, cache: Path) -> tuple[list[Row], str]:
    try:
        table = _load_hub(spec, cache)
    except (ConnectionError, TimeoutError) as error:
        raise NetworkError(
            f"{place}.dataset: {spec.dataset} is not in the cache and the hub cannot be asked "
            f"({_first_line(error)}); point it at a file instead: --set {place}=FILE.jsonl"
        ) from error
    except (ValueError, OSError) as error:
        raise DataError(f"{place}.dataset: {spec.dataset}: {_first_line(error)}") from error
    origin = " ".join(
        part for part in (spec.dataset, spec.config, f"split {spec.split}", spec.revision) if part
    )
    rows = [
        Row(f"{spec.dataset}[{spec.split}] row {number}", values)
        for number, values in enumerate(table)
    ]
    return rows, origin


def _load_hub(spec: DataSpec, cache: Path) -> Iterable[Mapping[str, Any]]:
    """Load through `datasets`: from evalkit's cache or the hub; offline also the user's cache."""
    import datasets
    from huggingface_hub import constants

    places = [str(cache / "datasets")]
    if not constants.HF_HUB_OFFLINE:
        _ask_hub(spec)
    else:
        places.append(str(datasets.config.HF_DATASETS_CACHE))
    for number, place in enumerate(places, start=1):
        try:
            return datasets.load_dataset(  # type: ignore[no-any-return]
                spec.dataset,
                spec.config,
                split=spec.split,
                revision=spec.revision,
                cache_dir=place,
            )
        except ConnectionError:
            if number == len(places):
                raise
    raise AssertionError("the loop returns or raises")


def _ask_hub(spec: DataSpec) -> None:
    """One short question first: `datasets` itself retries a dead network for minutes."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        HfApi().dataset_info(spec.dataset, revision=spec.revision, timeout=HUB_TIMEOUT)
    except HFValidationError:
        raise
    except HfHubHTTPError as error:
        if error.response.status_code >= 500:
            raise ConnectionError(_first_line(error)) from error
        raise ValueError(_first_line(error)) from error
    except Exception as error:
        # The HTTP client below the hub's library has changed names between its releases.
        raise ConnectionError(_first_line(error)) from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
