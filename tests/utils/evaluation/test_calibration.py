"""Calibration, against counting one by one."""

import numpy as np
import pytest

from utils.evaluation.calibration import (
    BINS,
    calibrate_images,
    calibrate_pixels,
    calibration_error,
)


def test_images_are_in_bins_of_equal_number():
    rng = np.random.default_rng(0)
    probability = rng.permutation(np.linspace(0, 1, 200))
    positive = rng.random(200) < probability
    bins = calibrate_images(probability, positive, [""] * 200)
    assert [part.count for part in bins] == [20] * BINS
    order = np.argsort(probability)
    for i, part in enumerate(bins):
        inside = order[20 * i : 20 * i + 20]
        assert part.observed == positive[inside].mean()
        assert part.predicted == pytest.approx(probability[inside].mean())
        assert part.low <= part.observed <= part.high
    assert calibration_error(bins) < 0.15


def test_equal_probabilities_share_a_bin():
    bins = calibrate_images(np.array([0.5] * 7 + [0.9]), np.arange(8) < 4, [""] * 8)
    assert [part.count for part in bins] == [7, 1]


def test_pixels_are_counted_over_all_images():
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 50, (6, 256))
    inside = rng.integers(0, counts + 1)
    bins = calibrate_pixels(counts, inside, ["a", "a", "b", "c", "d", "d"])
    assert sum(part.count for part in bins) == counts.sum()
    first = np.array_split(np.arange(256), BINS)[0]
    pixels, true = counts[:, first].sum(), inside[:, first].sum()
    assert bins[0].observed == true / pixels
    expected = sum(counts[:, k].sum() * (k + 0.5) / 255 for k in first) / pixels
    assert bins[0].predicted == pytest.approx(expected)
    assert bins[0].low <= bins[0].observed <= bins[0].high


def test_bins_without_pixels_are_left_out():
    counts = np.zeros((2, 256), int)
    counts[:, 255] = 4
    (part,) = calibrate_pixels(counts, counts, ["", ""])
    assert (part.count, part.predicted, part.observed) == (8, 1.0, 1.0)
    assert calibration_error([part]) == 0
    assert np.isnan(calibration_error([]))
