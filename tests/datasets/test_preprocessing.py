"""Resizing masks to their images."""

import numpy as np
import pytest

from datasets.preprocessing import fit_mask


@pytest.mark.parametrize("factor", [3, 5])
def test_a_smaller_mask_has_the_pixels_that_are_covered_by_more_than_half(factor):
    mask = np.random.default_rng(factor).integers(0, 2, (4 * factor, 6 * factor), np.uint8)
    blocks = mask.reshape(4, factor, 6, factor)
    assert np.array_equal(fit_mask(mask, 4, 6), blocks.mean(axis=(1, 3)) > 0.5)


def test_half_covered_is_not_in_the_mask():
    assert not fit_mask(np.array([[1, 0], [0, 1]], np.uint8), 1, 1).any()


@pytest.mark.parametrize("factor", [3, 5])
def test_a_larger_mask_has_the_same_value_at_the_middle_of_each_pixel(factor):
    mask = np.random.default_rng(factor).integers(0, 2, (4, 6), np.uint8)
    large = fit_mask(mask, 4 * factor, 6 * factor)
    middle = factor // 2
    assert np.array_equal(large[middle::factor, middle::factor], mask)


def test_a_mask_of_the_size_of_the_image_is_unchanged():
    mask = np.eye(4, 6, dtype=np.uint8)
    assert np.array_equal(fit_mask(mask, 4, 6), mask)
