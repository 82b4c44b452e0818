"""Probability maps as arrays, where there is no torch: equal to `tensors` within rounding."""

import numpy as np

from utils.postprocessing.histograms import LEVELS


def to_levels(probabilities: np.ndarray) -> np.ndarray:
    """Quantise probabilities, float32 of any shape -> uint8 level floor(255 p) of that shape."""
    return (probabilities * np.float32(LEVELS - 1)).astype(np.uint8)


def resize_probability(probability: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize one map to its image's original size, float32 [h,w] -> float32 [height,width].

    Equal to torch's interpolation within rounding. OpenCV's rounds positions in another way, which
    moves values by up to 5e-5.
    """
    columns = _interpolate_rows(np.ascontiguousarray(probability.T), width)
    return _interpolate_rows(np.ascontiguousarray(columns.T), height)


def _interpolate_rows(rows: np.ndarray, count: int) -> np.ndarray:
    """Interpolate [N,M] float32 linearly to [count,M]; beyond the outermost centres, they hold."""
    # As torch does: the step is a float32, and the position is rounded to one once.
    step = np.float64(np.float32(len(rows)) / np.float32(count))
    position = (step * (np.arange(count) + 0.5) - 0.5).astype(np.float32).clip(min=0)
    first = np.minimum(position.astype(np.intp), len(rows) - 1)
    share = (position - first.astype(np.float32)).clip(max=1)[:, None]
    start, change = rows[first], rows[np.minimum(first + 1, len(rows) - 1)]
    change -= start
    change *= share
    change += start
    return change
