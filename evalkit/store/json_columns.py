"""JSON columns as text that every database takes: JSON itself has no NaN and no infinity.

A float that is not finite is written as MongoDB's Extended JSON has it, {"$numberDouble":
"Infinity"} (https://github.com/mongodb/specifications, extended-json), and read back as it was.
Stores of before hold a bare `Infinity`, which Python reads and PostgreSQL refuses.
"""

from __future__ import annotations

import json
import math
from typing import Any, Final

from evalkit.errors import StoreError

_TAG: Final = "$numberDouble"
_TAG_BYTES: Final = _TAG.encode()


def to_json(value: object) -> str:
    """A JSON value as ASCII text.

    Raises:
        StoreError: it holds something that JSON has not, itself, or a key that is no finite number.
    """
    try:
        try:
            return json.dumps(value, allow_nan=False)
        except ValueError:
            return json.dumps(_tagged(value), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(f"what is to be stored is no JSON: {error}") from error


def from_json(text: str | bytes) -> Any:
    """The value that `to_json` was given; tuples are lists.

    Raises:
        ValueError: it is no JSON.
    """
    tagged = _TAG in text if isinstance(text, str) else _TAG_BYTES in text
    return json.loads(text, object_hook=_untagged if tagged else None)


def _tagged(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return {_TAG: "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}
    if isinstance(value, dict):
        return {key: _tagged(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_tagged(item) for item in value]
    return value


def _untagged(value: dict[str, Any]) -> Any:
    if value.keys() != {_TAG}:
        return value
    return float(value[_TAG])
