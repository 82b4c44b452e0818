"""Reading csv files of any origin, within size limits."""

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from utils import limits
from utils.errors import InputError, cause_of


@contextmanager
def open_csv(path: str | Path) -> Iterator:
    """Open a csv file in UTF-8, with or without a byte-order mark, within the limits.

    Yields:
        A csv.reader. Its fields may be as long as the run lengths of a ragged mask, above the
        default limit of the csv module.

    Raises:
        InputError: the file is too large.
        OSError: it cannot be read.
        UnicodeDecodeError: it is not text.
    """
    text = limits.read_bytes(path, limits.TABLE_BYTES).decode("utf-8-sig")
    if text.count(",") + text.count("\n") + text.count("\r") > limits.TABLE_FIELDS:
        raise InputError(f"{path}: is too large; the limit is {limits.TABLE_FIELDS:,} values")
    previous = csv.field_size_limit(limits.FIELD_CHARACTERS)
    try:
        yield csv.reader(io.StringIO(text, newline=""))
    finally:
        csv.field_size_limit(previous)


Columns = Sequence[str | tuple[str, ...]]
"""Names of columns; of several names for one, the first that the header has counts."""


def read_columns(
    path: str | Path, columns: Columns, what: str, optional: Columns = ()
) -> list[tuple[int, list[str]]]:
    """Read columns of a csv file with a header; spaces around values are stripped.

    Args:
        path: the file.
        columns: their names.
        what: what the file is expected to be, for error messages.
        optional: names of columns that may be missing; their values are then empty.

    Returns:
        For each row that is not blank, its line number (from 1, counting the header) and the values
        of `columns` and `optional`, in that order.

    Raises:
        InputError: the file is missing, empty or not csv, lacks a column, or has a row whose length
            differs from the header's.
    """
    try:
        with open_csv(path) as reader:
            return _rows(reader, columns, optional)
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as {what}: {cause_of(error)}") from error


def find_column(header: Sequence[str], names: str | Sequence[str]) -> int | None:
    """Return the index of the column with the first of several names that the header has."""
    names = [names] if isinstance(names, str) else names
    return next((header.index(name) for name in names if name in header), None)


def describe_columns(columns: Columns) -> str:
    """List columns with their other names: `ImageId (or image_id) and EncodedPixels`."""
    texts = [
        name if isinstance(name, str) else f"{name[0]} (or {', '.join(name[1:])})"
        for name in columns
    ]
    return f"{', '.join(texts[:-1])} and {texts[-1]}"


def _rows(reader: Any, columns: Columns, optional: Columns) -> list[tuple[int, list[str]]]:
    header = [name.strip() for name in next(reader, [])]
    required = [find_column(header, names) for names in columns]
    if None in required:
        names = describe_columns(columns)
        raise ValueError(f"looked for the columns {names}, found {str(header)[:80]}")
    indices = required + [find_column(header, names) for names in optional]
    rows = []
    for values in reader:
        if values and len(values) != len(header):
            count = f"{len(values)} values for {len(header)} columns"
            raise ValueError(f"row {reader.line_num} has {count}")
        if values:
            chosen = ["" if index is None else values[index].strip() for index in indices]
            rows.append((reader.line_num, chosen))
    return rows
