"""Reading csv files of run-length masks: stage 1, stage 2 and the headerless sample."""

import csv
import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datasets.formats import rle
from datasets.formats.finding import stem_of
from datasets.preprocessing import fit_mask
from utils.csv_files import describe_columns, find_column, open_csv
from utils.errors import InputError
from utils.limits import PIXELS, ROWS_PER_IMAGE

RLE_COLUMNS = ("ImageId", "EncodedPixels")
ID_COLUMNS = ("ImageId", "ImageID", "image_id", "SOPInstanceUID", "patientId")
"""Names of the column of ids; if a csv has several, the first of these counts."""
RLE_FORMS = ("relative", "absolute")
"""What the first number of each pair counts from: the end of the previous run, or the image."""
RUN_LENGTHS = re.compile(r"\s*(-1|\d+(\s+\d+)*)\s*")
_OR_ABSOLUTE = "; or it counts every run from the first pixel, which --rle_form absolute says"
_LIST = re.compile(r"\[(.*)\]", re.DOTALL)


class RleRow(NamedTuple):
    """One row: its line in the csv file (from 1, counting the header) and its run-length text."""

    number: int
    rle: str


def read_annotations(path: str | Path, form: str = "relative") -> dict[str, list[RleRow]]:
    """Read all rows by image id, in the order of the file.

    Surrounding spaces, a byte-order mark, additional columns and the suffix of an image file after
    an id are ignored. Run lengths may be written as a list, `[12, 5]`. A file without a header has
    two columns, the id and the run lengths. An empty cell of run lengths means no mask, as -1 does.

    Args:
        path: the file.
        form: one of `RLE_FORMS`; absolute run lengths are converted to relative ones.

    Raises:
        InputError: the file is missing, empty, too large, not text, lacks the columns, or a row has
            no id or is cut off before its run lengths, or these cannot be absolute.
    """
    path = Path(path)
    try:
        with open_csv(path) as reader:
            return _by_image(_rows(reader, path, form), path)
    except OSError as error:
        raise InputError(
            f"{path}: the csv of masks cannot be read ({error.strerror}); set its path with --rle, "
            "or the folder of mask files with --masks"
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


def check_extent(
    name: str,
    rows: Sequence[RleRow],
    size: tuple[int, int],
    source: object,
    rle_size: tuple[int, int] | None = None,
) -> None:
    """Refuse a csv with a run beyond the end of its image: it is for images of another size.

    Decoded at the wrong size, most of its masks would be scrambled without an error.

    Args:
        name: image id.
        rows: all rows of the image.
        size: height and width of the image in pixels.
        source: the csv file, for errors.
        rle_size: height and width of the images that the csv was made for, if that was given.

    Raises:
        InputError: a run reaches beyond the image.
    """
    height, width = rle_size or size
    if rle_size:
        has = f"--rle_size {height}x{width}"
        advice = "The csv is for images of another size: give that size"
    else:
        has = f"image {name} has {width}x{height}"
        advice = (
            "The csv is for images of another size: give that size, such as --rle_size 1024x1024 "
            "for Kaggle's csv, and its masks are resized to the images"
        )
    for row in rows:
        if rle.extent(row.rle) > height * width:
            absolute = rle.may_be_absolute(row.rle, height * width)
            raise InputError(
                f"{source} row {row.number}: its runs reach pixel {rle.extent(row.rle):,}, but "
                f"{has} = {height * width:,}. {advice}{_OR_ABSOLUTE if absolute else ''}"
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
            raise InputError(f"{path} row {row.number}: has no id of an image")
        images.setdefault(name, []).append(row)
        if len(images[name]) > ROWS_PER_IMAGE:
            raise InputError(
                f"{path} row {row.number}: is one of more than {ROWS_PER_IMAGE:,} rows of {name}"
            )
    if not images:
        columns = describe_columns((ID_COLUMNS, RLE_COLUMNS[1]))
        raise InputError(f"{path}: has no rows; expected the columns {columns}")
    return images


def _rows(reader: Any, path: Path, form: str) -> Iterator[tuple[str, RleRow]]:
    columns: tuple[int, int] | None = None
    for fields in reader:
        values = [field.strip() for field in fields]
        if not any(values):
            continue
        if columns is None:
            columns, is_header = _columns(values, path)
            if is_header:
                continue
        if max(columns) >= len(values):
            raise InputError(
                f"{path} row {reader.line_num}: has {len(values)} of at least {max(columns) + 1} "
                f"values; it is cut off. No mask is written as {rle.EMPTY} or as an empty value "
                "after the comma"
            )
        name, text = (values[column] for column in columns)
        runs = _read_runs(text or rle.EMPTY, form, path, reader.line_num)
        yield stem_of(name), RleRow(reader.line_num, runs)


def _columns(first: list[str], path: Path) -> tuple[tuple[int, int], bool]:
    """Return the columns of ids and run lengths, and whether the first row is a header."""
    name, text = (find_column(first, names) for names in (ID_COLUMNS, RLE_COLUMNS[1]))
    if name is not None and text is not None:
        return (name, text), True
    if len(first) == 2 and RUN_LENGTHS.fullmatch(_without_brackets(first[1])):
        return (0, 1), False
    raise InputError(
        f"{path}: expected the columns {describe_columns((ID_COLUMNS, RLE_COLUMNS[1]))}; "
        f"the first row is {', '.join(first)[:80]!r}"
    )


def _read_runs(text: str, form: str, path: Path, line: int) -> str:
    text = _without_brackets(text)
    if form == "relative":
        return text
    try:
        return rle.from_absolute(text)
    except ValueError as error:
        raise InputError(f"{path} row {line}: {error}; check it, and --rle_form") from error


def _without_brackets(text: str) -> str:
    """Write a list of run lengths, `[12, 5]`, as Kaggle does: `12 5`; `[]` is an empty mask."""
    found = _LIST.fullmatch(text)
    if found is None:
        return text
    return " ".join(found[1].replace(",", " ").split()) or rle.EMPTY
