"""Speed of run-length encoding, against a loop over the pixels."""

from collections.abc import Callable

import numpy as np

from benchmarks.speed import original
from benchmarks.speed.compare import Ratio, in_turns
from benchmarks.speed.data import Data
from datasets.formats.masks import read_mask
from datasets.formats.rle import encode

_OURS, _BASELINE = 500, 4
"""Masks per timed call."""


def measure(data: Data) -> Ratio:
    """Compare masks per second, on the non-empty mask of median size."""
    masks = [read_mask(sample.mask) for sample in data.samples.values()]
    masks = sorted((mask for mask in masks if mask.any()), key=lambda mask: mask.sum())
    mask = masks[len(masks) // 2]
    assert encode(mask) == original.encode(mask)

    def repeat(work: Callable[[np.ndarray], str], times: int) -> int:
        for _ in range(times):
            work(mask)
        return times

    return in_turns(
        "rle_encode",
        lambda: repeat(encode, _OURS),
        lambda: repeat(original.encode, _BASELINE),
        "masks/s",
    )
