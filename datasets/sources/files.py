"""Pixels directly from the image files, decoded and preprocessed at every access."""

from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from datasets.formats.images import read_image
from datasets.formats.masks import read_mask
from datasets.preprocessing import preprocess, resize_mask
from datasets.sources.base import Sample, check_same_size, read_all


class FileSource:
    """The prepared pixels of a data set, without a cache.

    Args:
        samples: the files by image id.
        clahe: equalise the local contrast.
        mask_resize: method of `resize_mask`.
    """

    def __init__(self, samples: dict[str, Sample], clahe: bool, mask_resize: str = "nearest"):
        self.samples = samples
        self.clahe = clahe
        self.mask_resize = mask_resize

    def mask_fractions(self) -> dict[str, float]:
        """Read every mask and return its fraction of mask pixels, by image id.

        Raises:
            InputError: masks cannot be read.
        """
        mask_fractions = read_all(lambda s: float(read_mask(s.mask).mean()), self.samples.values())
        bar = tqdm(mask_fractions, "reading masks", len(self.samples), unit="mask", leave=False)
        return dict(zip(self.samples, bar, strict=True))

    def build(self) -> None:
        """Do nothing: pixels are prepared at every access."""

    def check_files(self) -> None:
        """Do nothing: no file is memory-mapped."""

    def pixels(self, ids: Sequence[str], size: int) -> "FilePixels":
        """Return the pixels of the images `ids`, in this order, at one size."""
        samples = [self.samples[name] for name in ids]
        return FilePixels(samples, size, self.clahe, self.mask_resize)


class FilePixels:
    """Images and masks of one size, by position.

    Args:
        samples: the files.
        size: height and width of image and mask in pixels.
        clahe: equalise the local contrast.
        mask_resize: method of `resize_mask`.
    """

    def __init__(self, samples: list[Sample], size: int, clahe: bool, mask_resize: str = "nearest"):
        self.samples = samples
        self.size = size
        self.clahe = clahe
        self.mask_resize = mask_resize

    def __len__(self) -> int:
        return len(self.samples)

    def pair(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        """Return image and mask, uint8 [size,size]; the mask as `resize_mask` does.

        Raises:
            InputError: a file cannot be read, or image and mask differ in size.
        """
        image, mask, _ = self.triple(position)
        return image, mask

    def triple(self, position: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return image and mask as `pair` does, and the mask at the original size, uint8 [H,W]."""
        sample = self.samples[position]
        grey, full_mask = read_image(sample.image, bits=None), read_mask(sample.mask)
        check_same_size(sample, grey.shape, full_mask.shape)
        image = preprocess(grey, self.size, self.clahe)
        return image, resize_mask(full_mask, self.size, self.mask_resize), full_mask
