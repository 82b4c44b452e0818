"""Reading csv files of run-length masks: stage 1, stage 2 and the headerless sample."""

import csv
import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datasets.formats import rle
from datasets.preprocessing import fit_mask
from utils.csv_files import open_csv
from utils.errors import InputError
from utils.limits import PIXELS, ROWS_PER_IMAGE

RLE_COLUMNS = ("ImageId", "EncodedPixels")
RUN_LENGTHS = re.compile(r"\s*(-1|\d+(\s+\d+)*)\s*")


class RleRow(NamedTuple):
    """One row: its line in the csv file (from 1, counting the header) and its run-length text."""

    number: int
    rle: str


def read_annotations(path: str | Path) -> dict[str, list[RleRow]]:
    """Read all rows by image id, in the order of the file.

    Surrounding spaces, a byte-order mark and additional columns are ignored. A file without a
    header has two columns, the id and the run lengths.

    Raises:
        InputError: the file is missing, empty, too large, not text, lacks the columns, or a row has
            no id.
    """
    path = Path(path)
    try:
        with open_csv(path) as reader:
            return _by_image(_rows(reader, path), path)
    except OSError as error:
        raise InputError(
            f"{path}: the csv of masks cannot be read ({error.strerror}); set its path with --rle"
        ) from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is not a csv file in UTF-8 ({error})") from error


def annotated_mask(
    rows: Sequence[RleRow],
    height: int,
    width: int,
    source: object,
    rle_size: tuple[int, int] | None = None,
) -> np.ndarray:
    """Merge all rows of one image: the mask is the union of their runs.

    Repeated rows of `-1` are redundant. `-1` and run lengths for the same image are a contradiction
    that no official file contains, and are refused.

    Args:
        rows: all rows of the image.
        height: rows of the image in pixels.
        width: columns of the image in pixels.
        source: the csv file, for errors.
        rle_size: height and width of the images that the csv was made for, if it is for another
            size; the mask is then resized.

    Returns:
        [H,W] uint8 mask of 0 and 1.

    Raises:
        InputError: the rows contradict each other, or one cannot be decoded; the message names it.
    """
    empty = [row.number for row in rows if row.rle == rle.EMPTY]
    if empty and len(empty) < len(rows):
        other = next(row.number for row in rows if row.rle != rle.EMPTY)
        raise InputError(
            f"{source} row {empty[0]}: is {rle.EMPTY} (no mask), but row {other} has a mask for "
            "the same image; remove one of them"
        )
    masks = (_decode(row, *(rle_size or (height, width)), source) for row in rows)
    return fit_mask(functools.reduce(np.bitwise_or, masks), height, width)


def check_extent(name: str, rows: Sequence[RleRow], size: tuple[int, int], source: object) -> None:
    """Refuse a csv with a run beyond the end of its image: it is for images of another size.

    Decoded at the wrong size, most of its masks would be scrambled without an error.

    Args:
        name: image id.
        rows: all rows of the image.
        size: height and width of the image in pixels.
        source: the csv file, for errors.

    Raises:
        InputError: a run reaches beyond the image.
    """
    height, width = size
    for row in rows:
        if rle.extent(row.rle) > height * width:
            raise InputError(
                f"{source} row {row.number}: its runs reach pixel {rle.extent(row.rle):,}, but "
                f"image {name} has {width}x{height} = {height * width:,}. The csv is for images of "
                "another size: give that size, such as --rle_size 1024x1024 for Kaggle's csv, and "
                "its masks are resized to the images"
            )


def parse_size(text: str) -> tuple[int, int]:
    """Parse HxW, such as 1024x1024, into height and width.

    Raises:
        ValueError: it is not two positive integers.
    """
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise ValueError(f"{text!r} is not HxW, such as 1024x1024")
    if int(height) * int(width) > PIXELS:
        raise ValueError(f"{text!r}: the limit is {PIXELS:,} pixels")
    return int(height), int(width)


def _decode(row: RleRow, height: int, width: int, source: object) -> np.ndarray:
    try:
        return rle.decode(row.rle, height, width)
    except ValueError as error:
        raise InputError(f"{source} row {row.number}: {error}") from error


def _by_image(rows: Iterator[tuple[str, RleRow]], path: Path) -> dict[str, list[RleRow]]:
    images: dict[str, list[RleRow]] = {}
    for name, row in rows:
        if not name:
            raise InputError(f"{path} row {row.number}: has no {RLE_COLUMNS[0]}")
        images.setdefault(name, []).append(row)
        if len(images[name]) > ROWS_PER_IMAGE:
            raise InputError(
                f"{path} row {row.number}: is one of more than {ROWS_PER_IMAGE:,} rows of {name}"
            )
    if not images:
        raise InputError(f"{path}: has no rows; expected the columns {' and '.join(RLE_COLUMNS)}")
    return images


def _rows(reader: Any, path: Path) -> Iterator[tuple[str, RleRow]]:
    columns = None
    for fields in reader:
        values = [field.strip() for field in fields]
        if not any(values):
            continue
        if columns is None:
            columns = _columns(values, path)
            if columns == values:
                continue
        found = dict(zip(columns, values, strict=False))
        name, text = (found.get(column, "") for column in RLE_COLUMNS)
        yield name, RleRow(reader.line_num, text)


def _columns(first: list[str], path: Path) -> list[str]:
    if set(RLE_COLUMNS) <= set(first):
        return first
    if len(first) == 2 and RUN_LENGTHS.fullmatch(first[1]):
        return list(RLE_COLUMNS)
    raise InputError(
        f"{path}: expected the columns {' and '.join(RLE_COLUMNS)}; "
        f"the first row is {', '.join(first)[:80]!r}"
    )
