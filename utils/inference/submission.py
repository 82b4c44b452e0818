"""The images to predict, in which order, and the csv files written for them."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from datasets.formats.annotations import RLE_COLUMNS, read_annotations
from datasets.formats.images import SUFFIXES, find_images, image_id
from utils.errors import InputError
from utils.files import atomic_write

SCORES = "scores.csv"


class InputImage(NamedTuple):
    """An image to predict: its id and its file."""

    id: str
    path: Path


class Problem(NamedTuple):
    """A file that cannot be predicted, and why; the id is the file's stem if it has none."""

    id: str
    reason: str


class Prediction(NamedTuple):
    """What is kept of a predicted image.

    Attributes:
        id: image id.
        rle: its mask as Kaggle's run-length text.
        probability: of a mask anywhere: the presence head's, or else the largest of the gate map
            at the image's original size.
        area: of the mask in pixels, at the image's original size.
    """

    id: str
    rle: str
    probability: float
    area: int


def find_input_images(given: Iterable[Path]) -> tuple[list[InputImage], list[Problem]]:
    """Find the images of files and folders, in the order given, within folders by name.

    Returns:
        The images, and the files whose id cannot be read.

    Raises:
        InputError: a path is neither a folder with images nor an image file, or two files have
            the same id.
    """
    # A file given twice, by itself and with its folder, is one image.
    paths = list(dict.fromkeys(path for place in given for path in _images_at(place)))
    images: dict[str, InputImage] = {}
    problems: list[Problem] = []
    for path in tqdm(paths, "reading ids", unit="image", leave=False, disable=None):
        try:
            image = InputImage(image_id(path), path)
        except InputError as error:
            problems.append(Problem(path.stem, str(error)))
            continue
        other = images.setdefault(image.id, image)
        if other is not image:
            raise InputError(f"{other.path} and {path} are both image {image.id}; leave one out")
    return list(images.values()), problems


def read_sample(path: Path) -> list[str]:
    """Read the ids of a sample submission, in its order.

    Raises:
        InputError: it is missing, is not a csv of masks, or names an image twice.
    """
    if not path.is_file():
        raise InputError(f"{path}: is not a file; --sample_submission names a csv of ids")
    rows = read_annotations(path)
    for name, several in rows.items():
        if len(several) > 1:
            raise InputError(
                f"{path} row {several[1].number}: repeats {name} of row {several[0].number}; leave "
                "one row for each image (Kaggle's sample of stage 1 repeats ids)"
            )
    return list(rows)


def select_by_sample(
    images: list[InputImage], problems: list[Problem], ids: list[str], sample: Path
) -> tuple[list[InputImage], list[Problem]]:
    """Select the images of a sample submission, in its order, and the unreadable files among them.

    Raises:
        InputError: an id has no image.
    """
    files, unreadable = {i.id: i for i in images}, {p.id: p for p in problems}
    missing = [name for name in ids if name not in files and name not in unreadable]
    if missing:
        hint = "".join(f"\n  {problem.reason}" for problem in problems[:1])
        raise InputError(
            f"{sample} names {len(missing)} images that --images does not give, first {missing[0]}"
            + (f"; {len(problems)} files cannot be read:{hint}" if problems else "")
        )
    return (
        [files[name] for name in ids if name in files],
        [unreadable[name] for name in ids if name not in files],
    )


def write_submission(path: Path, predictions: list[Prediction]) -> None:
    """Write Kaggle's csv, and scores.csv (ImageId,probability,area) beside it, both or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as submission, atomic_write(path.with_name(SCORES)) as scores:
        _write_csv(submission, RLE_COLUMNS, ((p.id, p.rle) for p in predictions))
        rows = ((p.id, f"{p.probability:.6f}", p.area) for p in predictions)
        _write_csv(scores, ("ImageId", "probability", "area"), rows)


def _images_at(place: Path) -> list[Path]:
    if place.is_dir():
        paths = find_images(place)
        if not paths:
            raise InputError(f"{place}: has no {', '.join(SUFFIXES)} files at any depth")
        return paths
    if not place.is_file():
        raise InputError(f"{place}: is neither a file nor a folder; --images names images")
    if place.suffix.lower() not in SUFFIXES:
        raise InputError(f"{place}: is not one of {', '.join(SUFFIXES)}")
    return [place]


def _write_csv(path: Path, columns: Iterable[str], rows: Iterable[tuple]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
