"""The data set: which files it is made of, and its items, uint8 [1,S,S] images and masks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datasets.augmentation import Augmentation
from datasets.exclude import check_excluded
from datasets.formats.images import find_images, image_id
from utils.errors import InputError, refuse

MEND = (
    "Mend them, or leave them out with --exclude LIST, a file of image ids; "
    "python -m datasets.check names every one"
)
"""What to do about files that cannot be used."""


@dataclass(frozen=True)
class Sample:
    """One annotated image: its id and the files of the image and of its mask."""

    id: str
    image: Path
    mask: Path


class Found(NamedTuple):
    """What lies in the folders of images and masks.

    Attributes:
        samples: the images that have a mask, by image id, sorted.
        unannotated: ids of the images without a mask, sorted. They are left out: an unannotated
            image is not a negative.
        without_image: ids of the masks without an image, sorted.
        problems: why a file cannot be named, or an id stands for no one file.
    """

    samples: dict[str, Sample]
    unannotated: list[str]
    without_image: list[str]
    problems: list[str]


def find_samples(root: str | Path, excluded: frozenset[str] = frozenset()) -> Found:
    """Find the images of `root`/train_images that have a mask in `root`/train_mask.

    Args:
        root: the data set's folder.
        excluded: ids of images to leave out.

    Raises:
        InputError: a folder is missing or empty, an id occurs twice, a file cannot be named, no
            image has a mask, or there is no image of an excluded id.
    """
    found = survey(root, excluded)
    refuse(found.problems, MEND)
    if not found.samples:
        raise InputError(
            f"no file in {root}/train_mask has the name of an image in {root}/train_images "
            f"({len(found.unannotated)} images, {len(found.without_image)} masks). Prepare them "
            "with python -m datasets.prepare --images DIR --rle CSV"
        )
    return found


def survey(root: str | Path, excluded: frozenset[str] = frozenset()) -> Found:
    """Look at the names of all files as `find_samples` does, without refusing any of them.

    Raises:
        InputError: a folder is missing, or there is no image of an excluded id.
    """
    (images, other), (masks, another) = (
        _by_id(Path(root) / name) for name in ("train_images", "train_mask")
    )
    problems = other + another
    known = images.keys() | masks.keys() | {name for name, _ in problems}
    check_excluded(excluded, known)
    images, masks = (
        {name: path for name, path in paths.items() if name not in excluded}
        for paths in (images, masks)
    )
    both = sorted(images.keys() & masks.keys())
    return Found(
        {name: Sample(name, images[name], masks[name]) for name in both},
        sorted(images.keys() - masks.keys()),
        sorted(masks.keys() - images.keys()),
        [reason for name, reason in problems if name not in excluded],
    )


def _by_id(folder: Path) -> tuple[dict[str, Path], list[tuple[str, str]]]:
    """Give the files by id, and each problem with an id: the stem of a file that has none."""
    if not folder.is_dir():
        raise InputError(
            f"looked for images in {folder}, which is not a folder. Prepare it with "
            "python -m datasets.prepare --images DIR --rle CSV, or give --dataset_root"
        )
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


def check_alike(sample: Sample, image_shape: tuple[int, int], mask_shape: tuple[int, int]) -> None:
    """Refuse an image whose mask has another height or width.

    Raises:
        InputError: they differ; both files are named.
    """
    if tuple(image_shape) != tuple(mask_shape):
        raise InputError(
            f"{sample.image} is {image_shape[1]}x{image_shape[0]} but its mask {sample.mask} is "
            f"{mask_shape[1]}x{mask_shape[0]} pixels; prepare them again"
        )


class Source(Protocol):
    """Where prepared pixels come from: `files.Files` or `cache.Cache`."""

    def shares(self) -> dict[str, float]:
        """Give the share of mask pixels of every image, by id."""

    def build(self) -> None:
        """Prepare what can be prepared before the first epoch."""

    def pixels(self, ids: Sequence[str], size: int) -> "Pixels":
        """Give the pixels of some images, in the order of `ids`, at one size."""


class Pixels(Protocol):
    """Prepared images and masks of one size, by position."""

    def __len__(self) -> int: ...

    def pair(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        """Return image and mask, uint8 [S,S]; the mask is of 0 and 1."""

    def triple(self, position: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return image and mask as `pair` does, and the mask at the original size, uint8 [H,W]."""


class TrainImages(Dataset):
    """Training images: `dataset[index, seed]` -> image and mask.

    Args:
        pixels: the images of the fold.
        augmentation: changes image and mask by a seed; None leaves them as they are.
    """

    def __init__(self, pixels: Pixels, augmentation: Augmentation | None):
        self.pixels = pixels
        self.augmentation = augmentation

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return image and mask, both uint8 [1,S,S]; the mask is of 0 and 1."""
        index, seed = item
        image, mask = self.pixels.pair(index)
        if self.augmentation is not None:
            image, mask = self.augmentation(image, mask, seed)
        return _to_tensor(image), _to_tensor(mask)


class ValidImages(Dataset):
    """Validation images: `dataset[index]` -> index, image, mask, mask at the original size."""

    def __init__(self, pixels: Pixels):
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[int, Tensor, Tensor, Tensor]:
        """Return index, image and mask uint8 [1,S,S], and the mask uint8 [H,W]."""
        image, mask, full_mask = self.pixels.triple(index)
        return index, _to_tensor(image), _to_tensor(mask), torch.from_numpy(full_mask)


def _to_tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels))[None]
