"""Kaggle's run-length text for masks.

Pairs of `gap length`: a gap counts from the end of the previous run (from pixel 0 at first),
pixels run down the columns, and an empty mask is `-1`.
Source: the SIIM-ACR Pneumothorax Segmentation evaluation page.
"""

import numpy as np

EMPTY = "-1"


def encode(mask: np.ndarray) -> str:
    """Write a mask as run-length text.

    Args:
        mask: [H,W], any dtype; every pixel other than 0 belongs to the mask.

    Returns:
        `gap length gap length ...`, or `-1` for an empty mask.
    """
    mask = np.asarray(mask)
    columns = np.flatnonzero(mask.any(axis=0))
    if not columns.size:
        return EMPTY
    # Most of a mask is empty columns, and transposing is what costs: leave them out.
    left, right = columns[0], columns[-1] + 1
    pixels = mask[:, left:right].astype(bool).T.ravel()
    edges = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    if pixels[0]:
        edges = np.concatenate(([0], edges))
    if pixels[-1]:
        edges = np.concatenate((edges, [pixels.size]))
    edges += left * mask.shape[0]
    # The edges alternate start, end, start, end: their differences alternate gap, length.
    return " ".join(map(str, np.diff(edges, prepend=0).tolist()))


def decode(rle: str, height: int = 1024, width: int = 1024) -> np.ndarray:
    """Read run-length text as a mask.

    Args:
        rle: `gap length ...` or `-1`; surrounding space is ignored.
        height: rows of the image in pixels.
        width: columns of the image in pixels.

    Returns:
        [H,W] uint8 mask of 0 and 1.

    Raises:
        ValueError: the text is not whole numbers, their count is odd, one is negative, a run is
            empty, or a run reaches past the last pixel.
    """
    mask = np.zeros(height * width, dtype=np.uint8)
    if rle.strip() != EMPTY:
        starts, ends = _runs(rle, mask.size)
        for start, end in zip(starts, ends, strict=True):
            mask[start:end] = 1
    return mask.reshape(width, height).T


def _runs(rle: str, pixels: int) -> tuple[list[int], list[int]]:
    try:
        numbers = np.array([int(word) for word in rle.split()], dtype=np.int64)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"run-length text is not whole numbers: {rle.strip()[:40]!r}") from error
    if numbers.size == 0 or numbers.size % 2:
        raise ValueError(f"run-length text has {numbers.size} numbers, which are not pairs")
    if numbers.min() < 0:
        raise ValueError(f"run-length text has a negative number ({numbers.min()})")
    if (numbers[1::2] == 0).any():
        raise ValueError("run-length text has a run of length 0")
    if numbers.max() > pixels or numbers.sum() > pixels:
        raise ValueError(f"run-length text goes past the last of {pixels} pixels")
    edges = np.cumsum(numbers)
    return edges[0::2].tolist(), edges[1::2].tolist()
