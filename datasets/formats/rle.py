"""Kaggle's run-length encoding of masks.

The text is a sequence of `gap length` pairs: a gap counts from the end of the previous run, the
first one from pixel 0. Pixels are numbered down the columns. An empty mask is `-1`.
Source: the SIIM-ACR Pneumothorax Segmentation evaluation page.
"""

import numpy as np

EMPTY = "-1"
_DIGITS = 18
"""Digits that always fit into int64; Python itself refuses to convert some thousands."""


def encode(mask: np.ndarray) -> str:
    """Encode a mask as run-length text.

    Args:
        mask: [H,W], any dtype; every nonzero pixel belongs to the mask.

    Returns:
        `gap length gap length ...`, or `-1` for an empty mask.
    """
    mask = np.asarray(mask)
    columns = np.flatnonzero(mask.any(axis=0))
    if not columns.size:
        return EMPTY
    # Transposing dominates the cost, and most columns of most masks are empty: crop them first.
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
    """Decode run-length text to a mask.

    Args:
        rle: `gap length ...` or `-1`; surrounding spaces are ignored.
        height: rows of the image in pixels.
        width: columns of the image in pixels.

    Returns:
        [H,W] uint8 mask of 0 and 1.

    Raises:
        ValueError: a value is not an integer or is negative, their count is odd, a run is empty, or
            a run extends past the last pixel.
    """
    mask = np.zeros(height * width, dtype=np.uint8)
    if rle.strip() != EMPTY:
        starts, ends = _runs(rle, mask.size)
        for start, end in zip(starts, ends, strict=True):
            mask[start:end] = 1
    return mask.reshape(width, height).T


def extent(rle: str) -> int:
    """Return how many pixels an image needs for its runs to fit; 0 for an empty mask.

    Text that cannot be decoded at all has no extent: 0.
    """
    words = rle.split()
    readable = all(word.isdecimal() and len(word) <= _DIGITS for word in words)
    return sum(map(int, words)) if readable else 0


def from_absolute(text: str) -> str:
    """Convert absolute run-length text to this module's.

    Absolute text has the first pixel of each run in place of the gap. Pixels are numbered from 1,
    as in Kaggle's other competitions (the evaluation pages of Airbus Ship Detection or Severstal).

    Args:
        text: `start length ...` or `-1`.

    Raises:
        ValueError: a value is not an integer, their count is odd, or a run does not start after the
            end of the previous one.
    """
    if text.strip() == EMPTY:
        return EMPTY
    numbers = _numbers(text)
    previous, relative = 0, []
    for start, length in zip(numbers[0::2].tolist(), numbers[1::2].tolist(), strict=True):
        gap = start - 1 - previous
        if gap < 0:
            raise ValueError(
                f"its run lengths are not absolute; one starts at pixel {start:,}, where it cannot "
                f"be before {previous + 1:,}"
            )
        relative += [gap, length]
        previous = start - 1 + length
    return " ".join(map(str, relative))


def may_be_absolute(text: str, pixels: int) -> bool:
    """Return whether run-length text fits into an image of `pixels` pixels if it is absolute."""
    try:
        return extent(from_absolute(text)) <= pixels
    except ValueError:
        return False


def _runs(rle: str, pixels: int) -> tuple[list[int], list[int]]:
    numbers = _numbers(rle)
    if numbers.min() < 0:
        raise ValueError(f"run-length text has a negative number ({numbers.min()})")
    if (numbers[1::2] == 0).any():
        raise ValueError("run-length text has a run of length 0")
    if numbers.max() > pixels or numbers.sum() > pixels:
        raise ValueError(f"run-length text extends past the last of {pixels} pixels")
    edges = np.cumsum(numbers)
    return edges[0::2].tolist(), edges[1::2].tolist()


def _numbers(rle: str) -> np.ndarray:
    try:
        numbers = np.array([int(word) for word in rle.split()], dtype=np.int64)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"run-length text is not all integers: {rle.strip()[:40]!r}") from error
    if numbers.size == 0 or numbers.size % 2:
        raise ValueError(f"run-length text has {numbers.size} numbers; expected pairs")
    return numbers
