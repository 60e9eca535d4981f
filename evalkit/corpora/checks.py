"""What a document's text may not be."""

from __future__ import annotations

import re

from evalkit.errors import DataError

LONGEST = 20_000_000
"""Characters of one document. More is a file that lost its line ends, and a tokenizer would take
gigabytes for it."""
_SURROGATE = re.compile("[\\ud800-\\udfff]")


def checked_text(text: str, place: str) -> str:
    """Gives a text back that can be tokenised.

    Args:
        text: of a document, a prompt or a message. It may be empty, and may hold NUL.
        place: its file, line and column, for messages.

    Raises:
        DataError: it is too long, or holds half of a surrogate pair, which is no character.
    """
    if len(text) > LONGEST:
        raise DataError(
            f"{place} is a text of {len(text):,} characters (allowed: {LONGEST:,}): one document "
            "a row, and long ones in parts"
        )
    found = _SURROGATE.search(text)
    if found is not None:
        sign, where = f"U+{ord(found[0]):04X}", found.start() + 1
        raise DataError(
            f"{place}: character {where:,} is half a surrogate pair ({sign}), which is no text"
        )
    return text
