"""The data set: which files it is made of, and its items, uint8 [1,S,S] images and masks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datasets.images import find_images, image_id
from utils.augmentation import Augmentation
from utils.errors import InputError


@dataclass(frozen=True)
class Sample:
    """One annotated image: its id and the files of the image and of its mask."""

    id: str
    image: Path
    mask: Path


def find_samples(root: str | Path) -> tuple[dict[str, Sample], list[str]]:
    """Find the images of `root`/train_images that have a mask in `root`/train_mask.

    Returns:
        The samples by image id, sorted, and the ids of the images without a mask, which are left
        out: an unannotated image is not a negative.

    Raises:
        InputError: a folder is missing or empty, an id occurs twice, or no image has a mask.
    """
    images = _by_id(Path(root) / "train_images")
    masks = _by_id(Path(root) / "train_mask")
    both = sorted(images.keys() & masks.keys())
    if not both:
        raise InputError(
            f"no file in {root}/train_mask has the name of an image in {root}/train_images "
            f"({len(images)} images, {len(masks)} masks). Prepare them with "
            "python -m datasets.prepare --images DIR --rle CSV"
        )
    samples = {name: Sample(name, images[name], masks[name]) for name in both}
    return samples, sorted(images.keys() - masks.keys())


def _by_id(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise InputError(
            f"looked for images in {folder}, which is not a folder. Prepare it with "
            "python -m datasets.prepare --images DIR --rle CSV, or give --dataset_root"
        )
    found: dict[str, Path] = {}
    for path in find_images(folder):
        name = image_id(path)
        if name in found:
            raise InputError(f"{found[name]} and {path} are both image {name}; remove one")
        found[name] = path
    return found


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
