"""Post-processing and the search for its thresholds, against masks made one by one."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.makers import histograms_of, predicted, slow_dice
from utils.threshold import (
    MIN_AREAS,
    THRESHOLDS,
    PostProcess,
    Scores,
    best_pair,
    dice_surface,
    score,
)

SEEDS = st.integers(0, 10_000)


def slow_mask(levels, rule):
    """Cut a mask as the rule's definition says, pixel by pixel."""
    above_top = sum(level > round(255 * rule.top_threshold) for level in levels.ravel().tolist())
    mask = np.zeros(levels.shape, np.uint8)
    if above_top >= rule.min_area:
        for place, level in np.ndenumerate(levels):
            mask[place] = level > round(255 * rule.threshold)
    return mask


def slow_mean_dice(pairs, rule):
    return float(np.mean([slow_dice(slow_mask(levels, rule), mask) for levels, mask in pairs]))


@given(
    SEEDS,
    st.sampled_from([0.0, 0.002, 0.25, 0.5, 0.8, 1.0]),
    st.sampled_from([0, 1, 7, 12, 35, 36]),
    st.sampled_from([0.0, 0.5, 0.8, 0.999, 1.0]),
)
def test_mask_area_and_dice_of_a_rule_agree_with_its_definition(seed, threshold, area, top):
    pairs, rule = predicted(seed), PostProcess(threshold, area, top)
    histograms = histograms_of(pairs)
    slow = [slow_mask(levels, rule) for levels, _ in pairs]
    fast = [rule.mask(levels) for levels, _ in pairs]
    assert all(mask.dtype == np.uint8 for mask in fast)
    assert np.array_equal(fast, slow)
    assert rule.areas(histograms).tolist() == [mask.sum() for mask in slow]
    expected = [slow_dice(mask, truth) for mask, (_, truth) in zip(slow, pairs, strict=True)]
    np.testing.assert_allclose(rule.dice(histograms), expected, atol=1e-15)


def test_a_cut_ignores_the_area():
    levels = predicted(0)[1][0]
    assert np.array_equal(PostProcess(0.5, 10_000, 1.0).cut(levels), levels > 128)


@given(SEEDS)
def test_scores_are_those_of_the_masks(seed):
    pairs, rule = predicted(seed), PostProcess(0.5, 9, 0.5)
    masks = [slow_mask(levels, rule) for levels, _ in pairs]
    dice = [slow_dice(mask, truth) for mask, (_, truth) in zip(masks, pairs, strict=True)]
    positive = [bool(truth.any()) for _, truth in pairs]
    empty = [i for i, p in enumerate(positive) if not p]
    reached = score(histograms_of(pairs), rule)
    assert reached.dice == pytest.approx(np.mean(dice))
    assert reached.dice_positive == pytest.approx(np.mean(np.array(dice)[positive]))
    assert reached.empty_kept == pytest.approx(np.mean([not masks[i].any() for i in empty]))
    assert reached.predicted == sum(bool(mask.any()) for mask in masks)
    assert reached.baseline == pytest.approx(len(empty) / len(pairs))
    assert all(type(value) in (int, float) for value in reached.as_dict().values())


def test_scores_of_no_images_are_not_numbers():
    empty, full = np.zeros((2, 2), np.uint8), np.ones((2, 2), np.uint8)
    rule = PostProcess(0.5, 0, 0.5)
    assert np.isnan(score(histograms_of([(empty, empty)]), rule).dice_positive)
    assert np.isnan(score(histograms_of([(empty, full)]), rule).empty_kept)
    assert score(histograms_of([(empty, empty)]), rule).dice == 1


@given(SEEDS, st.integers(1, 12), st.integers(1, 4))
def test_the_surface_is_the_mean_dice_of_every_minimum_area_and_threshold(seed, images, thresholds):
    rng = np.random.default_rng(seed)
    gate = rng.integers(0, 5, images)  # few values: ties between images, and with minimum areas
    dice, positive = rng.random((images, thresholds)), rng.random(images) < 0.5
    min_areas = np.array([0, 1, 2, 4, 5, 99])
    surface = dice_surface(gate, dice, positive, min_areas)
    for (a, t), value in np.ndenumerate(surface):
        kept = [dice[i, t] if gate[i] >= min_areas[a] else not positive[i] for i in range(images)]
        assert value == pytest.approx(sum(kept) / images, abs=1e-11)


def test_min_areas_may_come_in_any_order():
    gate, positive = np.array([3, 1, 2]), np.array([True, False, True])
    dice = np.array([[0.5], [0.0], [0.25]])
    areas = np.array([4, 0, 2])
    backwards = dice_surface(gate, dice, positive, areas[::-1])
    assert np.array_equal(dice_surface(gate, dice, positive, areas), backwards[::-1])


def test_equal_scores_compare_equal_on_the_surface():
    """In whatever order the same values are summed."""
    rng = np.random.default_rng(0)
    dice = np.array([0.1, 0.2, 0.3, 0.7, 1 / 3, 2 / 3] * 50)
    surfaces = {
        dice_surface(
            np.full(300, 9), rng.permutation(dice)[:, None], np.ones(300, bool), np.array([0])
        ).item()
        for _ in range(20)
    }
    assert len(surfaces) == 1


def scaled_up(seed, side=50):
    """Draw predictions whose areas straddle the grid's minimum areas."""
    pairs = predicted(seed, shape=(5, 6))
    return [tuple(np.kron(part, np.ones((side // 5,) * 2, np.uint8)) for part in p) for p in pairs]


@settings(max_examples=25)
@given(SEEDS)
def test_the_best_pair_is_the_first_best_of_the_whole_grid(seed):
    pairs = scaled_up(seed)
    histograms = histograms_of(pairs)
    all_empty = (PostProcess(1.0, 0, 1.0), (-1.0, 0.0, 0))
    grid = [all_empty] + [
        (PostProcess(t, area, t), (abs(t - 0.5), t, area))
        for t, area in itertools.product(THRESHOLDS, MIN_AREAS)
    ]
    # Ties: leaving all empty first, then nearest to 0.5, then the smaller area.
    expected = min(grid, key=lambda r: (-round(r[0].dice(histograms).mean(), 12), r[1]))[0]
    assert best_pair(histograms) == expected
    best = slow_mean_dice(pairs, expected)
    assert best >= score(histograms, expected).baseline - 1e-12


def test_the_best_pair_leaves_all_empty_where_any_mask_costs():
    levels, empty = np.full((100, 100), 200, np.uint8), np.zeros((100, 100), np.uint8)
    few = empty.copy()
    few[0, :9] = 1
    histograms = histograms_of([(levels, empty)] * 3 + [(levels, few)])
    rule = best_pair(histograms)
    assert score(histograms, rule) == Scores(0.75, 0.0, 1.0, 0, 0.75)
    assert not rule.mask(np.full((3, 3), 255, np.uint8)).any()


def test_the_best_pair_finds_the_separating_area():
    small, large = (np.zeros((100, 100), np.uint8) for _ in range(2))
    small[:20, :20], large[:60, :60] = 200, 200
    histograms = histograms_of([(small, small * 0), (large, (large > 0).astype(np.uint8))])
    assert best_pair(histograms) == PostProcess(0.5, 512, 0.5)
    assert score(histograms, best_pair(histograms)).dice == 1.0
