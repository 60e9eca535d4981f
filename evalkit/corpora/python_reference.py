"""The built-in corpus: the language reference that every CPython carries, split without leaks."""

from __future__ import annotations

import hashlib
import platform
from collections import Counter, defaultdict
from collections.abc import Mapping
from itertools import combinations
from typing import Literal

from evalkit.errors import DataError

Split = Literal["train", "test"]

MIN_LINE = 50
"""Characters a line must have before sharing it says anything."""
MIN_SHARED = 3
"""Shared lines that make two topics one family."""
LARGE_FAMILY = 5
"""Families of this many topics are training text: in a test split they would be one cluster."""
TEST_TOPICS = 42
"""Held-out topics, at least."""


def topics() -> Mapping[str, str]:
    """The topics of `pydoc_data`, by name.

    Raises:
        DataError: this Python was built without them.
    """
    try:
        from pydoc_data.topics import topics as found
    except ImportError as error:
        raise DataError(
            "builtin:python-reference: this Python carries no pydoc_data.topics; "
            "point the suite at a file instead"
        ) from error
    return {str(name): str(text) for name, text in found.items()}


def python_version() -> str:
    """The version whose reference this is, as the corpus's digest and origin name it."""
    return f"Python {platform.python_version()}"


def long_lines(text: str) -> frozenset[str]:
    """The stripped lines of `text` that are long enough to tell a copy from a coincidence."""
    return frozenset(line.strip() for line in text.splitlines() if len(line.strip()) >= MIN_LINE)


def families(texts: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Group topics that quote each other: a split between them would leak.

    The reference repeats whole sections ('if' stands verbatim within 'compound'). A family is a
    connected component of the topics that share at least `MIN_SHARED` long lines.

    Returns:
        Families with their topics in order, themselves ordered by their first topic.
    """
    owners: dict[str, set[str]] = defaultdict(set)
    for name, text in texts.items():
        for line in long_lines(text):
            owners[line].add(name)
    shared: Counter[tuple[str, str]] = Counter()
    for names in owners.values():
        shared.update(combinations(sorted(names), 2))

    root = {name: name for name in texts}

    def find(name: str) -> str:
        while root[name] != name:
            name = root[name]
        return name

    for (first, second), count in shared.items():
        if count >= MIN_SHARED:
            low, high = sorted((find(first), find(second)))
            root[high] = low
    members: dict[str, list[str]] = defaultdict(list)
    for name in sorted(texts):
        members[find(name)].append(name)
    return [tuple(members[first]) for first in sorted(members)]


def split_families(texts: Mapping[str, str]) -> dict[Split, list[tuple[str, ...]]]:
    """Divide the families: `TEST_TOPICS` topics are test; the rest and all large families train.

    The order is that of the SHA-256 of each family's first topic: no chance, no choice.
    """

    def order(family: tuple[str, ...]) -> str:
        return hashlib.sha256(family[0].encode()).hexdigest()

    split: dict[Split, list[tuple[str, ...]]] = {"train": [], "test": []}
    held_out = 0
    for family in sorted(families(texts), key=order):
        if len(family) < LARGE_FAMILY and held_out < TEST_TOPICS:
            split["test"].append(family)
            held_out += len(family)
        else:
            split["train"].append(family)
    return split
