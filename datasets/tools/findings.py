"""What is found by reading every file of a data set: sizes, masks, bad files and duplicates."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from datasets.formats.images import read_image, to_mask
from datasets.siim import Sample, check_alike, survey
from utils.errors import InputError
from utils.parallel import in_order


@dataclass(frozen=True)
class Pair:
    """What is kept of an image and its mask.

    Attributes:
        id: image id.
        size: height and width in pixels.
        area: pixels of the mask.
        level: grey level of those pixels in the mask's file, 0 where there are none.
        image_digest: the same for the same decoded pixels.
        mask_digest: likewise, of the mask of 0 and 1.
    """

    id: str
    size: tuple[int, int]
    area: int
    level: int
    image_digest: bytes
    mask_digest: bytes


@dataclass(frozen=True)
class Duplicates:
    """Images of the same pixels under several ids.

    Attributes:
        ids: two or more, sorted.
        masks_differ: their masks are not all the same.
        folds: the folds they lie in, ascending; None where folds are not known.
    """

    ids: list[str]
    masks_differ: bool
    folds: list[int] | None


@dataclass(frozen=True)
class Findings:
    """What is found in a data set.

    Attributes:
        pairs: images that can be trained on, by id.
        unannotated: ids of images without a mask.
        without_image: ids of masks without an image.
        refused: why files cannot be used; each would stop a training.
    """

    pairs: list[Pair]
    unannotated: list[str]
    without_image: list[str]
    refused: list[str]

    @property
    def areas(self) -> np.ndarray:
        """[N] int64: pixels of each mask."""
        return np.array([pair.area for pair in self.pairs], dtype=np.int64)


def examine(root: str | Path, excluded: frozenset[str] = frozenset()) -> Findings:
    """Read every image that has a mask, in threads and with a progress bar.

    Args:
        root: folder with train_images/ and train_mask/.
        excluded: ids of images to leave out.

    Raises:
        InputError: a folder is missing, or there is no image of an excluded id.
    """
    found = survey(root, excluded)
    pairs, refused = [], list(found.problems)
    results = in_order(_examine, found.samples.values())
    for pair, problems in tqdm(results, "reading", len(found.samples), unit="image", disable=None):
        refused += problems
        pairs += [pair] if pair else []
    return Findings(pairs, found.unannotated, found.without_image, refused)


def find_duplicates(
    pairs: Iterable[Pair], fold_of: dict[str, int] | None = None
) -> list[Duplicates]:
    """Group the images whose decoded pixels are the same, whatever their files look like.

    Args:
        pairs: the images.
        fold_of: fold of each image id, as far as known; None without folds.
    """
    groups = defaultdict(list)
    for pair in pairs:
        groups[pair.image_digest].append(pair)
    return [_duplicates(group, fold_of) for group in groups.values() if len(group) > 1]


def _duplicates(group: list[Pair], fold_of: dict[str, int] | None) -> Duplicates:
    ids = sorted(pair.id for pair in group)
    masks_differ = len({pair.mask_digest for pair in group}) > 1
    folds = None
    if fold_of is not None:
        folds = sorted({fold_of[name] for name in ids if name in fold_of})
    return Duplicates(ids, masks_differ, folds)


def _examine(sample: Sample) -> tuple[Pair | None, list[str]]:
    grey, no_image = _result_or_reason(read_image, sample.image)
    levels, no_mask = _result_or_reason(read_image, sample.mask)
    if no_image or no_mask:
        return None, [reason for reason in (no_image, no_mask) if reason]
    mask, no_mask = _result_or_reason(to_mask, levels, sample.mask)
    _, unlike = _result_or_reason(check_alike, sample, grey.shape, levels.shape)
    if no_mask or unlike:
        return None, [reason for reason in (no_mask, unlike) if reason]
    area, level = int(np.count_nonzero(mask)), int(levels.max())
    return Pair(sample.id, grey.shape, area, level, _digest(grey), _digest(mask)), []


def _result_or_reason(work: Callable, *args) -> tuple[np.ndarray | None, str]:
    try:
        return work(*args), ""
    except InputError as error:
        return None, str(error)


def _digest(pixels: np.ndarray) -> bytes:
    digest = hashlib.sha256(f"{pixels.shape}".encode())
    digest.update(np.ascontiguousarray(pixels))
    return digest.digest()
