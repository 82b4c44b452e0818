"""Resizing images, and masks to their images."""

import cv2
import numpy as np
import pytest
import torch

from datasets.preprocessing import (
    fit_mask,
    resize_image,
    resize_mask,
    resize_soft_mask,
    whole_pixel,
)
from tests.helpers.makers import slow_dice
from utils.postprocessing.maps.tensors import resize_probability


def overlaps(side, size):
    """The share of each of [size] pixels that each of [side] pixels covers, along one side."""
    step, weights = side / size, np.zeros((size, side))
    for i in range(size):
        for j in range(side):
            overlap = min((i + 1) * step, j + 1) - max(i * step, j)
            weights[i, j] = max(0.0, overlap) / step
    return weights


def interpolation(side, size):
    """The weight of each of [side] pixels at the middle of each of [size] pixels."""
    middles = (np.arange(size) + 0.5) * side / size - 0.5
    return np.stack([np.interp(middles, np.arange(side), one) for one in np.eye(side)], axis=1)


def coverage(mask, size):
    """The share of each pixel of a grid that a mask covers, by the overlap of their sides."""
    height, width = mask.shape
    return overlaps(height, size) @ mask @ overlaps(width, size).T


def ellipses(seed, side=128):
    """Draw a mask of two ellipses, as smooth as an outlined one."""
    rng, mask = np.random.default_rng(seed), np.zeros((side, side), np.uint8)
    for _ in range(2):
        middle, axes = rng.integers(side // 4, 3 * side // 4, 2), rng.integers(5, side // 5, 2)
        cv2.ellipse(mask, middle.tolist(), axes.tolist(), int(rng.integers(180)), 0, 360, 1, -1)
    return mask


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


@pytest.mark.parametrize("shape", [(48, 48), (50, 34), (21, 16)])
@pytest.mark.parametrize("method", ["area", "soft"])
def test_area_and_soft_masks_are_the_share_that_the_mask_covers(shape, method):
    mask = (np.random.default_rng(2).random(shape) < 0.4).astype(np.uint8)
    share, resized = coverage(mask, 16), resize_mask(mask, 16, method)
    assert resized.dtype == np.uint8
    if method == "soft":
        assert np.abs(resized / 255 - share).max() < 1 / 255
    else:
        clear = np.abs(share - 0.5) > 1e-6
        assert np.array_equal(resized[clear], (share > 0.5)[clear])


@pytest.mark.parametrize("shape", [(50, 12), (12, 50), (64, 15), (17, 5)])
def test_a_side_that_shrinks_is_averaged_also_if_the_other_grows(shape):
    grey = np.random.default_rng(4).integers(0, 256, shape, np.uint8)
    rows, columns = (overlaps(n, 16) if n > 16 else interpolation(n, 16) for n in shape)
    assert np.abs(resize_image(grey, 16) - rows @ grey @ columns.T).max() < 1.01
    mask = (grey < 100).astype(np.uint8)
    share = rows @ mask @ columns.T
    assert np.abs(resize_mask(mask, 16, "soft") - 255 * share).max() < 1.01
    clear = np.abs(share - 0.5) > 1e-6
    assert np.array_equal(resize_mask(mask, 16, "area")[clear], (share > 0.5)[clear])


@pytest.mark.parametrize("shape", [(50, 34), (16, 34), (16, 16), (16, 9), (7, 9)])
def test_an_image_whose_sides_both_shrink_or_both_grow_is_resized_at_once(shape):
    grey = np.random.default_rng(5).integers(0, 256, shape, np.uint8)
    method = cv2.INTER_AREA if max(shape) > 16 else cv2.INTER_LINEAR
    assert np.array_equal(resize_image(grey, 16), cv2.resize(grey, (16, 16), interpolation=method))


@pytest.mark.parametrize("method", ["nearest", "area", "soft"])
def test_only_nearest_masks_are_moved(method):
    """By half a pixel of the original, so that a turned mask is not the mask of the turned one."""
    shifts, turned_alike = [], []
    for seed in range(8):
        mask = ellipses(seed)
        small = [resize_mask(image, 32, method) for image in (mask, mask[::-1, ::-1])]
        turned_alike.append(np.array_equal(small[0][::-1, ::-1], small[1]))
        for rows, whole_rows in zip(small, (mask, mask[::-1]), strict=True):
            centre = np.average(4 * np.arange(32) + 1.5, weights=rows.sum(axis=1, dtype=float))
            shifts.append(centre - np.average(np.arange(128), weights=whole_rows.sum(axis=1)))
    expected = -0.5 if method == "nearest" else 0
    assert np.mean(shifts) == pytest.approx(expected, abs=0.01)
    assert set(turned_alike) == {method != "nearest"}


def test_a_perfect_soft_mask_keeps_most_of_the_dice_at_the_original_size():
    """Each is enlarged and cut as predictions are; the shares by brute force bear it out."""
    kept: dict[str, list[float]] = {"nearest": [], "area": [], "soft": [], "brute force": []}
    for seed in range(12):
        mask = ellipses(seed)
        for method, scores in kept.items():
            if method == "brute force":
                small = coverage(mask, 32)
            else:
                small = resize_mask(mask, 32, method) / whole_pixel(method)
            large = resize_probability(torch.from_numpy(small), *mask.shape).numpy() > 0.5
            scores.append(slow_dice(large, mask))
    nearest, area, soft, exact = (np.mean(scores) for scores in kept.values())
    assert nearest < area < soft - 0.02
    assert soft > 0.97
    assert soft == pytest.approx(exact, abs=1e-3)


@pytest.mark.parametrize("method", ["area", "soft"])
def test_a_tiny_mask_is_not_lost(method):
    """As the image would count as empty: its largest shares stay, here less than half a level."""
    mask = np.zeros((96, 96), np.uint8)
    mask[50, 3] = 1
    small = resize_mask(mask, 4, method)
    assert small[2, 0] == 1
    assert small.sum() == 1
    assert not resize_mask(0 * mask, 4, method).any()


def test_a_soft_mask_of_its_own_size_is_unchanged_and_another_is_averaged():
    soft = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert np.array_equal(resize_soft_mask(soft, 8), soft)
    blocks = soft.reshape(4, 2, 4, 2).mean(axis=(1, 3))
    assert np.abs(resize_soft_mask(soft, 4) - blocks).max() <= 0.5


def test_the_size_of_the_original_keeps_the_mask_with_the_value_of_a_whole_pixel():
    mask = ellipses(0, 32)
    for method in ("nearest", "area", "soft"):
        assert np.array_equal(resize_mask(mask, 32, method), mask * whole_pixel(method))
