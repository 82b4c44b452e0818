"""The data set on disk: which images have a mask, which are excluded, how large masks are."""

import re
from collections.abc import Collection
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from datasets.formats.finding import find_images
from datasets.formats.ids import refuse_test_images
from datasets.formats.images import image_id
from datasets.sources.base import FIX_HINT, MASK_HINT, Sample
from utils.errors import InputError, cause_of, raise_problems
from utils.limits import LIST_BYTES, read_bytes

MASK_SIZES: tuple[tuple[int, int | None], ...] = (
    (1, 2048),
    (2049, 8192),
    (8193, 32768),
    (32769, None),
)
"""Buckets of mask sizes in pixels, first and last inclusive; None for no upper limit."""

_PREPARE = "python -m datasets.prepare --images DIR and --rle CSV or --masks DIR"
_FOLDERS = ("train_images", "train_mask")
_COMMENT = re.compile(r"(^|\s)#.*")


class FoundSamples(NamedTuple):
    """Contents of the folders of images and masks.

    Attributes:
        samples: images with a mask file, by image id, sorted.
        unannotated: ids of images without a mask file, sorted. They are left out: an unannotated
            image is not an empty one.
        without_image: ids of mask files without an image, sorted.
        problems: files without a usable id, and ids shared by several files.
    """

    samples: dict[str, Sample]
    unannotated: list[str]
    without_image: list[str]
    problems: list[str]


def find_samples(root: str | Path, excluded: frozenset[str] = frozenset()) -> FoundSamples:
    """Find the images in `root`/train_images that have a mask file in `root`/train_mask.

    Args:
        root: the data set's folder.
        excluded: ids of images to leave out.

    Raises:
        InputError: a folder is missing or empty, an id is used twice, a file has no usable id, no
            image has a mask file, or an excluded id does not exist.
    """
    found = scan_samples(root, excluded)
    raise_problems(found.problems, FIX_HINT)
    if not found.samples:
        refuse_test_images(found.unannotated)
        raise InputError(
            f"no mask in {root}/train_mask has the name of an image in {root}/train_images "
            f"({_example(found.unannotated, 'images')}; {_example(found.without_image, 'masks')}). "
            f"Prepare them with {_PREPARE}"
        )
    return found


def pick_samples(root: str | Path, ids: Collection[str]) -> dict[str, Sample]:
    """Find those of the given images that have a mask file, as `find_samples` does.

    Args:
        root: the data set's folder.
        ids: of the images; other files do not matter, even if they cannot be used.

    Returns:
        The images by id, in the order of `ids`.

    Raises:
        InputError: a folder is missing, or one of the ids is used twice.
    """
    (images, image_problems), (masks, mask_problems) = (_by_id(Path(root) / n) for n in _FOLDERS)
    asked = frozenset(ids)
    problems = [reason for name, reason in image_problems + mask_problems if name in asked]
    raise_problems(problems, MASK_HINT)
    both = images.keys() & masks.keys()
    return {name: Sample(name, images[name], masks[name]) for name in ids if name in both}


def scan_samples(root: str | Path, excluded: frozenset[str] = frozenset()) -> FoundSamples:
    """Scan file names like `find_samples`, but report problems instead of raising them.

    Raises:
        InputError: a folder is missing, or an excluded id does not exist.
    """
    (images, image_problems), (masks, mask_problems) = (_by_id(Path(root) / n) for n in _FOLDERS)
    problems = image_problems + mask_problems
    known = images.keys() | masks.keys() | {name for name, _ in problems}
    check_excluded(excluded, known)
    images, masks = (
        {name: path for name, path in paths.items() if name not in excluded}
        for paths in (images, masks)
    )
    both = sorted(images.keys() & masks.keys())
    return FoundSamples(
        {name: Sample(name, images[name], masks[name]) for name in both},
        sorted(images.keys() - masks.keys()),
        sorted(masks.keys() - images.keys()),
        [reason for name, reason in problems if name not in excluded],
    )


def read_excluded(path: str | Path | None) -> frozenset[str]:
    """Read image ids, one per line; `#` at the start of a line or after a space starts a comment.

    Args:
        path: the list; None excludes nothing.

    Raises:
        InputError: the file cannot be read as text.
    """
    if path is None:
        return frozenset()
    try:
        lines = read_bytes(path, LIST_BYTES).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = cause_of(error)
        raise InputError(f"--exclude {path}: cannot be read as a list of ids ({reason})") from error
    return frozenset(_COMMENT.sub("", line).strip() for line in lines) - {""}


def check_excluded(excluded: Collection[str], known: Collection[str]) -> None:
    """Check that every excluded id exists.

    An error and not a warning: with a misspelt id, the image would be trained on after all.

    Raises:
        InputError: an id is unknown; the message names similar ones.
    """
    unknown = sorted(set(excluded) - set(known))
    if unknown:
        near = ", ".join(get_close_matches(unknown[0], known, cutoff=0.8))
        raise InputError(
            f"--exclude: {len(unknown)} ids match no image or mask, the first is {unknown[0]}; "
            + (f"similar: {near}" if near else "no id is similar")
        )


def _example(names: list[str], what: str) -> str:
    return f"{len(names)} {what}" + (f", such as {names[0]}" if names else "")


def check_folders(root: str | Path) -> None:
    """Check that the folders of images and masks exist.

    Raises:
        InputError: one is missing.
    """
    for name in _FOLDERS:
        _check_folder(Path(root) / name)


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        _refuse_tests_alone(folder)
        raise InputError(
            f"looked for images in {folder}, which is not a folder. Prepare it with {_PREPARE}, or "
            "set --dataset_root"
        )


def _refuse_tests_alone(missing: Path) -> None:
    tests = missing.with_name("test_images")
    if missing.name == "train_images" and tests.is_dir():
        raise InputError(
            f"looked for images in {missing}, but {missing.parent} has only {tests.name}: test "
            "images have no masks to train on, and the competition's page gives no others today. "
            "docs/data.md says what training needs; predict these with predict.py"
        )


def _by_id(folder: Path) -> tuple[dict[str, Path], list[tuple[str, str]]]:
    """Return the files by id, and the problems as pairs of id (or else file stem) and reason."""
    _check_folder(folder)
    found: dict[str, Path] = {}
    problems = []
    for path in find_images(folder):
        try:
            name = image_id(path)
        except InputError as error:
            problems.append((path.stem, str(error)))
            continue
        if name in found:
            reason = f"{found[name]} and {path} are both image {name}; remove one"
            problems.append((name, reason))
        found[name] = path
    return found, problems
