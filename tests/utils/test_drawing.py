"""Pictures of images with their masks."""

import numpy as np
import pytest

from tests.helpers.dicoms import picture
from utils.drawing import PREDICTION, TRUTH, comparison, outline


def ring():
    """Return a mask with a hole, [64,64] uint8."""
    mask = np.zeros((64, 64), np.uint8)
    mask[10:50, 20:60] = 1
    mask[25:35, 35:45] = 0
    return mask


def on_edge(mask):
    """Return the pixels of a mask next to a pixel outside it."""
    padded = np.pad(mask, 1)
    neighbours = [padded[1:-1, :-2], padded[1:-1, 2:], padded[:-2, 1:-1], padded[2:, 1:-1]]
    return (mask == 1) & (np.min(neighbours, axis=0) == 0)


@pytest.fixture
def grey():
    return np.repeat(picture(64, 64)[..., None], 3, axis=2)


def test_the_outline_is_drawn_the_inside_tinted_and_the_outside_unchanged(grey):
    mask, before = ring(), grey.copy()
    drawn = outline(grey, mask, (255, 80, 64))
    edge = on_edge(mask)
    assert (drawn[edge] == (255, 80, 64)).all()
    deep = (mask == 1) & ~(drawn == (255, 80, 64)).all(axis=2)
    tint = 0.75 * grey[deep] + 0.25 * np.array([255, 80, 64])
    assert deep.sum() > 900
    assert np.abs(drawn[deep] - tint).max() <= 1
    hole = np.zeros_like(mask)
    hole[26:34, 36:44] = 1
    outside = (mask == 0) & ~(drawn == (255, 80, 64)).all(axis=2)
    assert np.array_equal(drawn[outside], grey[outside])
    assert outside[hole == 1].all()
    assert np.array_equal(grey, before)


def test_an_empty_mask_changes_no_pixel_and_a_full_one_all(grey):
    assert np.array_equal(outline(grey, np.zeros((64, 64), np.uint8), TRUTH), grey)
    full = outline(grey, np.ones((64, 64), np.uint8), TRUTH)
    assert (full != grey).any(axis=2).all()


def test_a_comparison_is_image_truth_and_prediction_side_by_side():
    image, truth = picture(40, 64), ring()[:40]
    prediction = np.roll(truth, 5, axis=1)
    drawn = comparison(image, truth, prediction)
    assert drawn.shape == (40, 3 * 64, 3)
    assert drawn.dtype == np.uint8
    plain, with_truth, with_prediction = np.split(drawn, 3, axis=1)
    assert (plain == image[..., None]).all()
    assert np.array_equal(with_truth, outline(plain, truth, TRUTH))
    assert np.array_equal(with_prediction, outline(plain, prediction, PREDICTION))
