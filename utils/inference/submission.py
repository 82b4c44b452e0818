"""The images to predict, their order, and the csv files of the results."""

import csv
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from datasets.formats.annotations import RLE_COLUMNS, read_annotations
from datasets.formats.finding import SUFFIXES, find_images, is_image_file
from datasets.formats.ids import PATH_HINT, IdKind, IdRule
from datasets.formats.images import identify
from utils.console import print0
from utils.errors import InputError
from utils.files import is_stream, write_output

SCORES = "scores.csv"


class InputImage(NamedTuple):
    """An image to predict: its id, its file, and whether it has 16 bits of unknown depth."""

    id: str
    path: Path
    deep: bool = False


class Problem(NamedTuple):
    """A file that cannot be predicted, and why; `id` is the file's stem if its id is unreadable."""

    id: str
    reason: str


class Prediction(NamedTuple):
    """The prediction for one image.

    Attributes:
        id: image id.
        rle: the mask in Kaggle's run-length encoding.
        probability: probability that the image has a mask: that of the presence head, or without
            one the maximum of the gate map at the image's original size.
        area: area of the mask in pixels, at the image's original size.
    """

    id: str
    rle: str
    probability: float
    area: int


def find_input_images(
    paths: Iterable[Path], kind: IdKind = "uid"
) -> tuple[list[InputImage], list[Problem]]:
    """Find the images in files and folders, in the order given; a folder's images by name.

    Args:
        paths: files and folders.
        kind: how images get their ids.

    Returns:
        The images, and the files whose id cannot be read.

    Raises:
        InputError: a path is neither a folder with images nor an image file, or two files have
            the same id.
    """
    # A file may be given twice, directly and by its folder.
    rules = {file: rule for path in paths for file, rule in _images_at(path, kind)}
    images: dict[str, InputImage] = {}
    problems: list[Problem] = []
    progress = tqdm(rules.items(), "reading ids", unit="image", leave=False, disable=None)
    for file, rule in progress:
        try:
            identity = identify(file, rule)
        except InputError as error:
            problems.append(Problem(file.stem, str(error)))
            continue
        image = InputImage(identity.id, file, identity.deep)
        other = images.setdefault(image.id, image)
        if other is not image:
            raise InputError(
                f"{other.path} and {file} are both image {image.id}; remove one, or, {PATH_HINT}"
            )
    return list(images.values()), problems


def check_paths(paths: Iterable[Path]) -> None:
    """Check that images and folders of images exist.

    Raises:
        InputError: a path is neither a file nor a folder.
    """
    for path in paths:
        if not (path.is_dir() or path.is_file()):
            raise InputError(
                f"{path}: is neither a file nor a folder; --images takes image files and folders "
                "of images"
            )


def read_sample(path: Path) -> list[str]:
    """Read the ids of a sample submission, in its order; repeated ones count once, with a word.

    Raises:
        InputError: the file is missing, or is not a csv of masks.
    """
    rows = read_annotations(path)
    repeated = sum(map(len, rows.values())) - len(rows)
    if repeated:
        print0(
            f"{path}: {repeated:,} rows repeat an id and are dropped, as in Kaggle's of stage 1; "
            "the submission has one row per image"
        )
    return list(rows)


def select_by_sample(
    images: list[InputImage], problems: list[Problem], ids: list[str], sample: Path
) -> tuple[list[InputImage], list[Problem]]:
    """Select the images of a sample submission, in its order, and the problems among them.

    Raises:
        InputError: there is no file for an id.
    """
    files, unreadable = {i.id: i for i in images}, {p.id: p for p in problems}
    missing = [name for name in ids if name not in files and name not in unreadable]
    if missing:
        hint = "".join(f"\n  {problem.reason}" for problem in problems[:1])
        raise InputError(
            f"{sample} names {len(missing)} images that --images lacks, the first is {missing[0]}"
            + (f"; --images has {min(files)}" if files and len(missing) == len(ids) else "")
            + (f"; {len(problems)} files cannot be read:{hint}" if problems else "")
        )
    return (
        [files[name] for name in ids if name in files],
        [unreadable[name] for name in ids if name not in files],
    )


def write_submission(path: Path, predictions: list[Prediction]) -> None:
    """Write Kaggle's csv and, at `scores_path`, ImageId,probability,area.

    Earlier files are replaced once both are written in full, the submission last: a new one never
    lies beside the scores of an old one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scores = scores_path(path)
    with ExitStack() as stack:
        submission = stack.enter_context(write_output(path))
        _write_csv(submission, RLE_COLUMNS, ((p.id, p.rle) for p in predictions))
        if scores is not None:
            # Nine digits tell every float32 from its neighbours, also close to 0 and to 1.
            rows = ((p.id, f"{p.probability:.9g}", p.area) for p in predictions)
            table = stack.enter_context(write_output(scores))
            _write_csv(table, ("ImageId", "probability", "area"), rows)


def scores_path(submission: Path) -> Path | None:
    """Return the path of scores.csv: next to the submission, None if that is a pipe or a device."""
    return None if is_stream(submission) else submission.with_name(SCORES)


def _images_at(path: Path, kind: IdKind) -> Iterator[tuple[Path, IdRule]]:
    """Yield the image files of a folder, or a file, and the rule by which they are named."""
    files = _list_images(path)
    rule = IdRule.of_folder(kind, path if path.is_dir() else path.parent, files)
    yield from ((file, rule) for file in files)


def _list_images(path: Path) -> list[Path]:
    if path.is_dir():
        files = find_images(path)
        if not files:
            raise InputError(f"{path}: has no {', '.join(SUFFIXES)} files at any depth")
        return files
    check_paths([path])
    if not is_image_file(path):
        raise InputError(f"{path}: is not a {', '.join(SUFFIXES)} file")
    return [path]


def _write_csv(path: Path, columns: Iterable[str], rows: Iterable[tuple]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
