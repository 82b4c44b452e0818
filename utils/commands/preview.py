"""The work of python -m datasets.preview: draw what each augmentation set does to one image."""

import argparse

import cv2
import numpy as np

from datasets.augmentation import AUGMENTATIONS, Augmentation
from datasets.formats.masks import read_mask
from datasets.siim import find_samples
from datasets.sources.base import Sample
from datasets.sources.files import FileSource
from utils.console import print0
from utils.drawing import TRUTH, contact_sheet, tile
from utils.errors import InputError
from utils.files import write_output

SEEDS = 7
"""Augmented images per row."""


def preview(options: argparse.Namespace) -> None:
    """Draw the picture as the options of datasets.preview say.

    Raises:
        InputError: the data set or the image is missing, or the picture cannot be written.
    """
    sample = _choose(find_samples(options.dataset_root).samples, options.image)
    prepared = FileSource({sample.id: sample}, options.clahe == "true").pixels(
        [sample.id], options.size
    )
    sheet = draw_sheet(*prepared.pair(0), options.seed, _title(sample, options))
    encoded = cv2.imencode(options.out.suffix.lower(), sheet[..., ::-1])[1]
    try:
        with write_output(options.out) as temporary:
            temporary.write_bytes(encoded.tobytes())
    except OSError as error:
        raise InputError(
            f"{options.out} cannot be written ({error.strerror}); choose another --out"
        ) from error
    print0(f"{options.out}: image {sample.id}")


def draw_sheet(
    image: np.ndarray, mask: np.ndarray, seed: int, title: tuple[str, str]
) -> np.ndarray:
    """Draw one row for each augmentation set except none.

    Args:
        image: [H,W] uint8.
        mask: [H,W] uint8 of 0 and 1, outlined in green.
        seed: the first of the seven seeds.
        title: the two lines above the rows.

    Returns:
        [H,W,3] uint8 RGB.
    """
    names = [name for name in AUGMENTATIONS if name != "none"]
    tiles = []
    for name in names:
        augment = Augmentation(name)
        tiles.append(tile(image, mask, ("not augmented", _area(mask)), TRUTH))
        for number in range(seed, seed + SEEDS):
            augmented, augmented_mask = augment(image, mask, number)
            caption = (f"seed {number}", _area(augmented_mask))
            tiles.append(tile(augmented, augmented_mask, caption, TRUTH))
    return contact_sheet(tiles, title, columns=1 + SEEDS, row_titles=names)


def _area(mask: np.ndarray) -> str:
    return f"mask {mask.mean():.2%}"


def _title(sample: Sample, options: argparse.Namespace) -> tuple[str, str]:
    clahe = "after CLAHE" if options.clahe == "true" else "without CLAHE"
    return (
        "Augmentations of one image",
        f"{sample.id}, {options.size}x{options.size} pixels {clahe}, mask outlined",
    )


def _choose(samples: dict[str, Sample], wanted: str | None) -> Sample:
    """Return the image with the id `wanted`, or by default the first positive."""
    if wanted is None:
        positive = (sample for sample in samples.values() if read_mask(sample.mask).any())
        # With only empty images, the first one is as good as any.
        return next(positive, next(iter(samples.values())))
    if wanted not in samples:
        raise InputError(
            f"--image {wanted}: none of the {len(samples):,} annotated images has this id; give the"
            f" name of an image file without its suffix, such as {next(iter(samples))}"
        )
    return samples[wanted]
