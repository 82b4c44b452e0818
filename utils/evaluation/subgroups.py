"""Subgroups of images by a csv of attributes, such as view, sex, age or hospital."""

import csv
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.formats.finding import stem_of
from datasets.patients import IMAGE_COLUMNS, PATIENT_COLUMNS
from utils.csv_files import find_column, open_csv, read_columns
from utils.errors import InputError, cause_of

MOST_VALUES = 8
"""Values of an attribute that get a subgroup each; the rarer ones share one."""
MOST_NUMBERS = 6
"""An attribute with more distinct numbers is cut into quarters."""
UNKNOWN, OTHERS = "unknown", "others"

_DICOM_AGE = re.compile(r"(\d{1,3})Y")


class Subgroup(NamedTuple):
    """The images with one value of an attribute.

    Attributes:
        attribute: name of the column.
        value: the value, or the range of a number.
        members: [N] bool.
    """

    attribute: str
    value: str
    members: np.ndarray


def read_subgroups(path: Path, ids: list[str]) -> list[Subgroup]:
    """Read a csv with a column of image ids and any columns of attributes.

    A column of patients and one without two different values are left out. Ages may be written as
    in DICOM, such as 058Y.

    Args:
        path: the csv.
        ids: the images, N of them; an image without a row, or an empty value, is unknown.

    Raises:
        InputError: the file is missing, is not a csv, has no column of images or of attributes, or
            has no row of these images or several of one.
    """
    names = _attribute_names(path)
    rows = read_columns(path, (IMAGE_COLUMNS, *names), "a csv of attributes")
    of_image: dict[str, list[str]] = {}
    for number, (file, *values) in rows:
        if stem_of(file) in of_image:
            raise InputError(f"{path} row {number}: {file} is repeated; keep one row per image")
        of_image[stem_of(file)] = values
    if not of_image.keys() & set(ids):
        raise InputError(
            f"{path}: none of its {len(of_image):,} images is among the {len(ids):,} of the run, "
            f"such as {ids[0]}; give a csv with the ids of the run's folds.csv"
        )
    blank = [""] * len(names)
    columns = zip(*(of_image.get(name, blank) for name in ids), strict=True)
    return [
        group
        for name, values in zip(names, columns, strict=True)
        for group in _split(name, list(values))
    ]


def _attribute_names(path: Path) -> list[str]:
    try:
        with open_csv(path) as reader:
            header = [name.strip() for name in next(reader, [])]
    except (OSError, ValueError, csv.Error) as error:
        reason = cause_of(error)
        raise InputError(f"{path} cannot be read as a csv of attributes: {reason}") from error
    index = find_column(header, IMAGE_COLUMNS)
    if index is None:
        return []  # the columns that were looked for are named when the rows are read
    others = [name for i, name in enumerate(header) if i != index and name not in PATIENT_COLUMNS]
    if not others:
        raise InputError(f"{path}: has no column of an attribute next to {header}")
    return others


def _split(name: str, values: list[str]) -> list[Subgroup]:
    values = [_DICOM_AGE.sub(r"\1", value) for value in values]
    numbers = _as_numbers(values)
    if numbers is not None and len(np.unique(numbers[~np.isnan(numbers)])) > MOST_NUMBERS:
        labels, order = _quarters(numbers)
    else:
        common = [value for value, _ in Counter(filter(None, values)).most_common()]
        # A single rare value needs no group of others.
        kept = common if len(common) <= MOST_VALUES + 1 else common[:MOST_VALUES]
        labels = [(value if value in kept else OTHERS) if value else UNKNOWN for value in values]
        order = [*sorted(kept), OTHERS, UNKNOWN]
    found = [value for value in order if value in labels]
    if len(found) < 2:
        return []
    return [Subgroup(name, value, np.array(labels) == value) for value in found]


def _as_numbers(values: list[str]) -> np.ndarray | None:
    try:
        return np.array([float(value) if value else np.nan for value in values])
    except ValueError:
        return None


def _quarters(numbers: np.ndarray) -> tuple[list[str], list[str]]:
    """Label numbers with their quarter, a range from its smallest to its largest number."""
    known = numbers[~np.isnan(numbers)]
    quarter = np.searchsorted(np.unique(np.quantile(known, (0.25, 0.5, 0.75))), numbers, "left")
    ranges = {}
    for i in np.unique(quarter[~np.isnan(numbers)]):
        inside = numbers[(quarter == i) & ~np.isnan(numbers)]
        ranges[i] = f"{inside.min():g} to {inside.max():g}"
    labels = [UNKNOWN if np.isnan(n) else ranges[i] for n, i in zip(numbers, quarter, strict=True)]
    return labels, [*ranges.values(), UNKNOWN]
