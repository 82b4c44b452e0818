"""Kaggle's Dice, from one histogram of probabilities per image.

Dice of an image is 2|A and B| / (|A| + |B|), and 1 when both are empty; the score is the mean over
images. Source: the SIIM-ACR Pneumothorax Segmentation evaluation page.

Probabilities are quantised to 256 levels. The histogram of the levels over all pixels, and over the
pixels of the true mask, gives area and intersection at every threshold without another pass.
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from utils.errors import InputError
from utils.files import atomic
from utils.limits import HISTOGRAM_BYTES, check_size

LEVELS = 256


def to_levels(probabilities: Tensor) -> Tensor:
    """Quantise probabilities, float of any shape -> uint8 level floor(255 p) of the same shape."""
    return (probabilities.float() * (LEVELS - 1)).to(torch.uint8)


def level_of(threshold: float) -> int:
    """Return the level of a threshold from 0 to 1; a pixel is above it where level > this."""
    return round(threshold * (LEVELS - 1))


def threshold_of(level: int) -> float:
    """Return the threshold of a level, to four decimals; `level_of` gives the level back."""
    return round(level / (LEVELS - 1), 4)


def resize_probability(probability: Tensor, height: int, width: int) -> Tensor:
    """Bring one map to its image's original size, float [h,w] -> float32 [height,width]."""
    resized = F.interpolate(
        probability.float()[None, None], (height, width), mode="bilinear", align_corners=False
    )
    return resized[0, 0]


def count_levels(levels: Tensor, mask: Tensor) -> Tensor:
    """Count the pixels of one image at every level.

    Args:
        levels: [H,W] uint8.
        mask: [H,W] uint8 of 0 and 1, the truth.

    Returns:
        [2,256] int32: the counts over all pixels, and those over the pixels of the mask.
    """
    inside = levels.to(torch.int16) + LEVELS * mask.to(torch.int16)
    outside_inside = torch.bincount(inside.flatten(), minlength=2 * LEVELS).view(2, LEVELS)
    return torch.stack((outside_inside.sum(0), outside_inside[1])).to(torch.int32)


@dataclass(frozen=True)
class Histograms:
    """Pixel counts per level for a set of images, at their original sizes.

    Attributes:
        ids: [N] image ids.
        height: [N] int32, pixels.
        width: [N] int32, pixels.
        all: [N,256] int32, counts over all pixels.
        mask: [N,256] int32, counts over the pixels of the true mask.
    """

    ids: np.ndarray
    height: np.ndarray
    width: np.ndarray
    all: np.ndarray
    mask: np.ndarray

    @property
    def positive(self) -> np.ndarray:
        """[N] bool: the true mask has a pixel."""
        return self.mask.sum(axis=1) > 0

    def areas(self) -> np.ndarray:
        """[N,256] int64: pixels above each level."""
        return _above(self.all)

    def dice(self) -> np.ndarray:
        """[N,256] float64: Dice of each image with its mask cut above each level."""
        total = _above(self.all) + self.mask.sum(axis=1, keepdims=True)
        return np.where(total == 0, 1.0, 2 * _above(self.mask) / np.maximum(total, 1))

    def save(self, path: str | Path) -> None:
        """Write the arrays as a compressed npz, atomically."""
        with atomic(path) as temporary:
            np.savez_compressed(temporary, **vars(self))


def load_histograms(path: str | Path) -> Histograms:
    """Read an npz that `Histograms.save` wrote.

    Raises:
        InputError: the file is missing, damaged, too large, or lacks an array of the right form.
    """
    try:
        with zipfile.ZipFile(path) as file:
            unpacked = sum(member.file_size for member in file.infolist())
        check_size(path, unpacked, HISTOGRAM_BYTES)
        with np.load(path, allow_pickle=False) as arrays:
            histograms = Histograms(**{name: arrays[name] for name in Histograms.__annotations__})
        _check_form(histograms)
    except InputError:
        raise
    except Exception as error:  # numpy raises zipfile's, zlib's and its own errors here
        raise InputError(f"{path} cannot be read as out-of-fold histograms: {error}") from error
    return histograms


def _check_form(histograms: Histograms) -> None:
    count = histograms.ids.shape[:1]
    shapes = {"ids": count, "height": count, "width": count}
    for name, array in vars(histograms).items():
        shape, kind = shapes.get(name, (*count, LEVELS)), "U" if name == "ids" else "i"
        if array.shape != shape or array.dtype.kind != kind:
            raise ValueError(f"{name} is {array.dtype} {array.shape}, not of {shape}")


def join(parts: list[Histograms]) -> Histograms:
    """Put the histograms of several folds behind one another."""
    return Histograms(
        **{n: np.concatenate([vars(p)[n] for p in parts]) for n in Histograms.__annotations__}
    )


def _above(counts: np.ndarray) -> np.ndarray:
    from_here_up = np.cumsum(counts[:, ::-1], axis=1, dtype=np.int64)[:, ::-1]
    return from_here_up - counts
