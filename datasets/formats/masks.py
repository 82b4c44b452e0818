"""Mask files: exactly two stored values, of which the darker one is background."""

from pathlib import Path

import numpy as np

from datasets.formats.headers import palette_indices_differ
from datasets.formats.images import read_values
from datasets.formats.pixels import luminance
from utils.errors import InputError


class MaskError(InputError):
    """A mask file whose values do not say what belongs to the mask.

    Excluding such files would leave out positives only, so no message advises it.
    """


class SmoothedMaskError(MaskError):
    """A mask file with more than two values, which `cut_at_half` can use."""


def read_mask(path: str | Path) -> np.ndarray:
    """Read a mask file.

    A file with a single value has to be black; it is an empty mask. Colours and 16-bit values
    count as they are stored.

    Returns:
        [H,W] uint8 mask of 0 and 1.

    Raises:
        MaskError: the file has other than two values, or two equally dark ones.
        InputError: the file cannot be read.
    """
    return binary_mask(read_values(path), path)


def binary_mask(values: np.ndarray, path: str | Path) -> np.ndarray:
    """Convert the stored values of a mask file to 0 and 1, see `read_mask`.

    Args:
        values: [H,W] grey or [H,W,3 or 4] BGR(A), uint8 or uint16.
        path: the file that they come from.

    Raises:
        MaskError: see `read_mask`; `SmoothedMaskError` for more than two values.
    """
    colours = values if values.ndim == 2 else _pack(values)
    low, high = colours.min(), colours.max()
    is_high = colours == high
    if low == high:
        if values[..., :3].any() if values.ndim == 3 else values.any():
            raise MaskError(f"{path}: is no mask; all its pixels have one value that is not black")
        if palette_indices_differ(Path(path)):
            raise MaskError(
                f"{path}: is no mask; its shapes are only in the numbers of a palette that is all "
                "black. Save it as white on black"
            )
        return np.zeros(colours.shape, np.uint8)
    if (colours[~is_high] != low).any():
        raise SmoothedMaskError(_describe_values(np.unique(colours), values, path))
    grey = luminance(values)
    value_high, value_low = grey[is_high].flat[0], grey[~is_high].flat[0]
    if value_high == value_low:
        where = "its transparency" if values.shape[-1] == 4 else "colours of equal brightness"
        raise MaskError(
            f"{path}: is no mask; its shapes are only in {where}. Save it as white on black"
        )
    return (is_high if value_high > value_low else ~is_high).astype(np.uint8)


def cut_at_half(values: np.ndarray, path: str | Path) -> tuple[np.ndarray, int]:
    """Convert a smoothed mask to 0 and 1: what is brighter than half of the range is mask.

    Args:
        values: see `binary_mask`; of colours, the brightest channel counts.
        path: the file that they come from.

    Returns:
        [H,W] uint8 mask of 0 and 1, and the number of ambiguous pixels, those between a quarter and
        three quarters of the range.

    Raises:
        MaskError: nothing is brighter than half of the range, so that the mask would vanish.
    """
    grey = values if values.ndim == 2 else values[..., :3].max(axis=2)
    full, brightest = int(np.iinfo(grey.dtype).max), int(grey.max())
    if 2 * brightest <= full:
        raise MaskError(
            f"{path}: no pixel is above half of the range; the brightest has {brightest:,} of "
            f"{full:,}, so that nothing would be left of this mask. Get a larger version of it, or "
            "stretch its values to the whole range"
        )
    ambiguous = int(np.count_nonzero((grey > full // 4) & (grey < full - full // 4)))
    return (grey > full // 2).astype(np.uint8), ambiguous


def _pack(values: np.ndarray) -> np.ndarray:
    """Pack the channels of each pixel into one number, [H,W,C] -> [H,W] uint64."""
    packed = np.zeros(values.shape[:2], np.uint64)
    for channel in range(values.shape[2]):
        packed = packed << np.uint64(16) | values[..., channel]
    return packed


def _describe_values(found: np.ndarray, values: np.ndarray, path: str | Path) -> str:
    kind = "colours" if values.ndim == 3 else "grey levels"
    return (
        f"{path}: is no mask; it has {len(found):,} {kind} where a mask has two. It was smoothed "
        "when it was resized, or saved as JPEG. Do not exclude it, which would leave out positives "
        "only: cut such masks at half of their range with python -m datasets.prepare --images DIR "
        "--masks DIR --binarize, or prepare the images again from Kaggle's csv of run lengths"
    )
