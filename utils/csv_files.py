"""Reads csv files, whoever wrote them."""

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from utils import limits
from utils.errors import InputError


@contextmanager
def open_csv(path: str | Path) -> Iterator:
    """Open a csv file in UTF-8, with or without a byte-order mark, within the limits.

    Yields:
        A reader as csv.reader gives it. Its fields may be as long as a ragged mask needs, which is
        longer than csv allows by itself.

    Raises:
        InputError: the file is larger than is read.
        OSError: it cannot be read.
        UnicodeDecodeError: it is not text.
    """
    text = limits.read_bytes(path, limits.TABLE_BYTES).decode("utf-8-sig")
    if text.count(",") + text.count("\n") + text.count("\r") > limits.TABLE_FIELDS:
        raise InputError(f"{path}: is too large; at most {limits.TABLE_FIELDS:,} values are read")
    usual = csv.field_size_limit(limits.FIELD_CHARACTERS)
    try:
        yield csv.reader(io.StringIO(text, newline=""))
    finally:
        csv.field_size_limit(usual)


def read_columns(path: str | Path, columns: Sequence[str], what: str) -> list[tuple[int, ...]]:
    """Read some columns of a csv file with a header; spaces around values are ignored.

    Args:
        path: the file.
        columns: their names.
        what: the file is said to be, for errors.

    Returns:
        For each row that is not blank, its line in the file (from 1, the header counted) and the
        texts of the columns, in the order of `columns`.

    Raises:
        InputError: the file is missing, empty, not csv, lacks a column or has a row of another
            length than its header.
    """
    try:
        with open_csv(path) as reader:
            return _rows(reader, columns)
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as {what}: {error}") from error


def _rows(reader, columns: Sequence[str]) -> list[tuple[int, ...]]:
    header = [name.strip() for name in next(reader, [])]
    if not set(columns) <= set(header):
        names = f"{', '.join(columns[:-1])} and {columns[-1]}"
        raise ValueError(f"looked for the columns {names}, found {str(header)[:80]}")
    places, rows = [header.index(name) for name in columns], []
    for values in reader:
        if values and len(values) != len(header):
            count = f"{len(values)} values for {len(header)} columns"
            raise ValueError(f"row {reader.line_num} has {count}")
        if values:
            rows.append((reader.line_num, *(values[place].strip() for place in places)))
    return rows
