"""The data set: files -> uint8 [1,S,S] images and masks."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from datasets.images import find_images, image_id, preprocess, read_image, read_mask, resize_mask
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


def mask_shares(samples: dict[str, Sample], progress: bool = True) -> dict[str, float]:
    """Read every mask and give, for each image id, the share of its pixels that belong to it."""
    with ThreadPoolExecutor() as pool:
        # OpenCV lets go of the interpreter while it decodes, so threads are enough.
        shares = pool.map(lambda sample: float(read_mask(sample.mask).mean()), samples.values())
        bar = tqdm(shares, "reading masks", len(samples), leave=False, disable=not progress)
        return dict(zip(samples, bar, strict=True))


class TrainImages(Dataset):
    """Training images at the stage's size: `dataset[index, seed]` -> image and mask.

    Args:
        samples: the images of the fold.
        size: side of the square input in pixels.
        clahe: equalise the local contrast.
        augmentation: changes image and mask by a seed; None leaves them as they are.
    """

    def __init__(
        self, samples: list[Sample], size: int, clahe: bool, augmentation: Augmentation | None
    ):
        self.samples = samples
        self.size = size
        self.clahe = clahe
        self.augmentation = augmentation

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return image and mask, both uint8 [1,size,size]; the mask is of 0 and 1."""
        index, seed = item
        image, mask, _ = _load(self.samples[index], self.size, self.clahe)
        if self.augmentation is not None:
            image, mask = self.augmentation(image, mask, seed)
        return _to_tensor(image), _to_tensor(mask)


class ValidImages(Dataset):
    """Validation images: `dataset[index]` -> index, image, mask, mask at the original size."""

    def __init__(self, samples: list[Sample], size: int, clahe: bool):
        self.samples = samples
        self.size = size
        self.clahe = clahe

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[int, Tensor, Tensor, Tensor]:
        """Return index, image and mask uint8 [1,size,size], and the mask uint8 [H,W]."""
        image, mask, full_mask = _load(self.samples[index], self.size, self.clahe)
        return index, _to_tensor(image), _to_tensor(mask), torch.from_numpy(full_mask)


def _load(sample: Sample, size: int, clahe: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return image and mask at the stage's size, and the mask at the original size."""
    grey, full_mask = read_image(sample.image), read_mask(sample.mask)
    if grey.shape != full_mask.shape:
        raise InputError(
            f"{sample.image} is {grey.shape[1]}x{grey.shape[0]} but its mask {sample.mask} is "
            f"{full_mask.shape[1]}x{full_mask.shape[0]} pixels; prepare them again"
        )
    return preprocess(grey, size, clahe), resize_mask(full_mask, size), full_mask


def _to_tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels))[None]
