"""Inspecting every file of a data set: sizes, masks, unusable files and duplicates."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from tqdm import tqdm

from datasets.formats.images import read_image, read_values
from datasets.formats.masks import binary_mask
from datasets.formats.pixels import luminance
from datasets.sources.base import Sample, check_same_size
from utils.errors import InputError
from utils.parallel import Result, map_in_order


@dataclass(frozen=True)
class ImageRecord:
    """Facts about an image and its mask, taken from their pixels.

    Attributes:
        id: image id.
        size: height and width in pixels.
        area: mask pixels.
        level: grey level of the mask pixels in the mask file; 0 if the mask is empty.
        image_digest: SHA-256 of the decoded image.
        mask_digest: SHA-256 of the mask as 0 and 1.
    """

    id: str
    size: tuple[int, int]
    area: int
    level: int
    image_digest: bytes
    mask_digest: bytes


@dataclass(frozen=True)
class Duplicates:
    """Images with identical pixels under several ids.

    Attributes:
        ids: two or more, sorted.
        masks_differ: whether their masks differ.
        folds: the folds they are in, ascending; None if folds are unknown.
    """

    ids: list[str]
    masks_differ: bool
    folds: list[int] | None


def inspect_images(samples: Iterable[Sample], total: int) -> tuple[list[ImageRecord], list[str]]:
    """Decode every image and its mask, in threads and with a progress bar.

    Args:
        samples: the images.
        total: number of images, for the progress bar.

    Returns:
        Records of the images that can be trained on, in order, and the problems of the others.
    """
    records: list[ImageRecord] = []
    refused: list[str] = []
    results = map_in_order(_inspect, samples)
    for record, problems in tqdm(results, "reading", total, unit="image", disable=None):
        refused += problems
        records += [record] if record else []
    return records, refused


def find_duplicates(
    records: Iterable[ImageRecord], fold_of: dict[str, int] | None = None
) -> list[Duplicates]:
    """Group images whose decoded pixels are identical, even if their files are not.

    Args:
        records: the images.
        fold_of: fold of each image id, where known; None if folds are unknown.
    """
    groups: dict[bytes, list[ImageRecord]] = defaultdict(list)
    for record in records:
        groups[record.image_digest].append(record)
    return [_duplicates(group, fold_of) for group in groups.values() if len(group) > 1]


def _duplicates(group: list[ImageRecord], fold_of: dict[str, int] | None) -> Duplicates:
    ids = sorted(pair.id for pair in group)
    masks_differ = len({pair.mask_digest for pair in group}) > 1
    folds = None
    if fold_of is not None:
        folds = sorted({fold_of[name] for name in ids if name in fold_of})
    return Duplicates(ids, masks_differ, folds)


def _inspect(sample: Sample) -> tuple[ImageRecord | None, list[str]]:
    problems: list[str] = []
    grey = _attempt(problems, partial(read_image, bits=None), sample.image)
    levels = _attempt(problems, read_values, sample.mask)
    if grey is None or levels is None:
        return None, problems
    mask = _attempt(problems, binary_mask, levels, sample.mask)
    _attempt(problems, check_same_size, sample, grey.shape, levels.shape[:2])
    if mask is None or problems:
        return None, problems
    size = grey.shape[0], grey.shape[1]
    area, level = int(np.count_nonzero(mask)), int(luminance(levels).max())
    return ImageRecord(sample.id, size, area, level, _digest(grey), _digest(mask)), []


def _attempt(problems: list[str], work: Callable[..., Result], *args: Any) -> Result | None:
    """Return the result, or None after appending the error to `problems`."""
    try:
        return work(*args)
    except InputError as error:
        problems.append(str(error))
        return None


def _digest(pixels: np.ndarray) -> bytes:
    digest = hashlib.sha256(f"{pixels.shape}".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()
