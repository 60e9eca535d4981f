"""Files of documents, read to rows without `datasets`: a rerun starts in milliseconds."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalkit.errors import DataError

MAX_CSV_FIELD = 2**31 - 1


@dataclass(frozen=True)
class Row:
    """One record of a file or dataset, and where it stands, for messages."""

    place: str
    values: Mapping[str, Any]


def read_rows(path: Path) -> list[Row]:
    """Read a file by its suffix; a row's `place` is `file:line` where the format has lines.

    - `.jsonl`: one JSON object a line, blank lines skipped.
    - `.json`: a list of JSON objects.
    - `.csv`: a header, then records; RFC 4180 quoting.
    - `.parquet`: every column.
    - `.txt`: one document per block between blank lines, in the column `text`. Only the one blank
      line between two blocks is dropped: joined with a blank line again, they are the file.

    Raises:
        DataError: it is missing, not UTF-8, or not of its format; with the line where there is one.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        return _READERS[path.suffix.lower()](path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _read_text(path: Path) -> str:
    data = path.read_bytes()
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: not UTF-8 text ({error.reason})") from error


def _object(place: str, value: object) -> Row:
    if not isinstance(value, dict):
        raise DataError(f"{place}: not a JSON object with columns")
    return Row(place, value)


def _read_jsonl(path: Path) -> list[Row]:
    rows = []
    # Not splitlines(): JSON strings may hold U+2028 and its kin, which are no line ends here.
    for number, line in enumerate(_read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{place}: not JSON: {error}") from error
        rows.append(_object(place, value))
    return rows


def _read_json(path: Path) -> list[Row]:
    try:
        values = json.loads(_read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, deep nesting
        raise DataError(f"{path}: not JSON: {error}") from error
    if not isinstance(values, list):
        raise DataError(f"{path}: not a list of JSON objects (one object a line is .jsonl)")
    return [_object(f"{path}[{index}]", value) for index, value in enumerate(values)]


def _read_csv(path: Path) -> list[Row]:
    csv.field_size_limit(MAX_CSV_FIELD)
    reader = csv.DictReader(io.StringIO(_read_text(path), newline=""), strict=True)
    rows = []
    try:
        for record in reader:
            place = f"{path}:{reader.line_num}"
            if None in record:
                raise DataError(f"{place}: more fields than the header has columns")
            rows.append(Row(place, record))
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not CSV: {error}") from error
    return rows


def _read_parquet(path: Path) -> list[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        records = pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: not Parquet: {error}") from error
    return [Row(f"{path} row {index}", record) for index, record in enumerate(records)]


def _read_txt(path: Path) -> list[Row]:
    rows, line = [], 1
    # The blank line right before a text line ends a block; further ones stay with the block.
    for block in re.split(r"\n\n(?!\n)", _read_text(path).replace("\r\n", "\n")):
        rows.append(Row(f"{path}:{line}", {"text": block}))
        line += block.count("\n") + 2
    return rows


_READERS: dict[str, Callable[[Path], list[Row]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".txt": _read_txt,
}
SUFFIXES = tuple(_READERS)
"""The suffixes of files that hold documents."""
