"""Rules and the search on the small grid, against pixel-by-pixel references."""

import itertools
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.makers import histograms_of, make_rows, measured, predicted, slow_dice, slow_mask
from utils.errors import InputError
from utils.inference.out_of_fold import collect_histograms, measure_prediction
from utils.postprocessing.averages import dice_surface
from utils.postprocessing.components import COMPONENT_LEVELS
from utils.postprocessing.histograms import lowest_above, threshold_of
from utils.postprocessing.maps.tensors import to_levels
from utils.postprocessing.rule import NO_MASKS, PostProcess, Scores, load_rule, score
from utils.postprocessing.search import MIN_AREAS, THRESHOLDS, best_pair

SEEDS = st.integers(0, 10_000)


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


WIDE_RULES = st.builds(
    PostProcess,
    threshold=st.sampled_from([threshold_of(level) for level in COMPONENT_LEVELS]),
    min_area=st.sampled_from([0, 1, 9, 20, 40]),
    top_threshold=st.sampled_from([0.0, 0.25, 0.5, 0.8]),
    presence_threshold=st.sampled_from([0.0, 0.2, 0.3, 0.5, 0.9]),
    min_component_area=st.sampled_from([0, 1, 2, 4]),
    min_component_mean=st.sampled_from([0.0, 0.5, 0.6, 0.8, 0.9, 1.0]),
)


@given(SEEDS, WIDE_RULES, st.booleans(), st.booleans())
def test_every_rule_has_the_same_result_on_histograms_and_maps(seed, rule, gate, presence):
    images, rows = make_rows(seed, gate, presence)
    histograms = collect_histograms([row.id for row in rows], rows)
    slow = [slow_mask(levels, rule, *rest) for levels, _, *rest, _ in images]
    fast = [rule.mask(levels, *rest) for levels, _, *rest, _ in images]
    assert all(mask.dtype == np.uint8 for mask in fast)
    assert np.array_equal(fast, slow)
    assert rule.areas(histograms).tolist() == [mask.sum() for mask in slow]
    expected = [slow_dice(mask, truth) for mask, (_, truth, *_) in zip(slow, images, strict=True)]
    np.testing.assert_allclose(rule.dice(histograms), expected, atol=1e-15)


def test_a_component_at_the_minimum_mean_is_kept():
    levels = np.array([[204, 0, 203, 205, 0, 203]], np.uint8)
    rule = PostProcess(0.5, 0, 0.5, min_component_mean=0.8)
    assert rule.mask(levels).tolist() == [[1, 0, 1, 1, 0, 0]]


@pytest.mark.parametrize("presence", [0.3, np.float32(0.3)])
def test_presence_is_compared_as_float32(presence):
    """As float32, 0.3 is slightly above 0.3, whether it was stored or not."""
    levels = np.full((2, 2), 200, np.uint8)
    rule = PostProcess(0.5, 0, 0.5, presence_threshold=0.3)
    assert rule.mask(levels, presence=presence).all()
    histograms = histograms_of([(levels, levels // 200)])
    histograms = replace(histograms, presence=np.array([presence], np.float32))
    assert rule.areas(histograms).tolist() == [4]


def test_without_a_presence_threshold_a_presence_of_0_passes():
    levels = np.full((2, 2), 200, np.uint8)
    assert PostProcess(0.5, 0, 0.5).mask(levels, presence=0.0).all()
    assert PostProcess(0.5, 0, 0.5, presence_threshold=0.9).mask(levels).all()
    assert not PostProcess(0.5, 0, 0.5, presence_threshold=0.9).mask(levels, presence=0.9).any()


def test_component_filters_without_component_data_are_refused():
    by_area, by_mean = (
        PostProcess(0.3, 0, 0.5, **part)
        for part in ({"min_component_area": 1}, {"min_component_mean": 0.1})
    )
    for rule in (by_area, by_mean):
        with pytest.raises(
            InputError, match=r"0\.3: components are only available at thresholds 0\.0588, "
        ):
            rule.areas(measured(0))
        with pytest.raises(InputError, match="have no components"):
            rule.dice(histograms_of(predicted(0)))


def test_a_rule_is_loaded_and_parameters_missing_in_old_files_are_off(tmp_path):
    path, rule = tmp_path / "threshold.json", PostProcess(0.5, 9, 0.75, 0.25, 64, 0.6)
    path.write_text(json.dumps(asdict(rule) | {"pooled": None}))
    assert load_rule(path) == rule
    path.write_text('{"threshold": 0.5, "min_area": 9, "top_threshold": 0.75}')
    assert load_rule(path) == PostProcess(0.5, 9, 0.75)
    path.write_text('{"threshold": 0.5, "min_area": 9, "presence_threshold": 0.5}')
    with pytest.raises(InputError, match="top_threshold"):
        load_rule(path)


@pytest.mark.parametrize("value", [-0.1, float("nan"), "0.5", True, None, [0.5]])
@pytest.mark.parametrize("name", PostProcess.__annotations__)
def test_a_saved_parameter_out_of_range_is_named(tmp_path, name, value):
    path, rule = tmp_path / "threshold.json", asdict(PostProcess(0.5, 9, 0.75))
    values = [value] if name.endswith("_area") else [value, 1.1]
    for bad in values:
        path.write_text(json.dumps(rule | {name: bad}))
        with pytest.raises(InputError, match=rf"threshold\.json: {name} .* a number from 0 to"):
            load_rule(path)


def test_a_rule_describes_the_parameters_it_uses():
    assert PostProcess(0.5, 9, 0.75).describe() == (
        "masks above 0.500 (probabilities from 0.5059) if at least 9 pixels exceed 0.750 (from "
        "0.7529)"
    )
    assert PostProcess(0.5, 9, 0.75, 0.25, 64, 0.6).describe() == (
        "masks above 0.500 (probabilities from 0.5059) if at least 9 pixels exceed 0.750 (from "
        "0.7529) and the presence exceeds 0.250, components of at least 64 pixels and mean "
        "probability 0.600"
    )


@given(st.floats(0, 1) | st.sampled_from([0.0, 0.5, 0.998, 0.9981, 1.0]))
def test_the_lowest_probability_above_a_threshold_is_the_cut(threshold):
    """Bisection for the lowest probability whose pixel is in the mask."""
    rule, low, high = PostProcess(threshold, 0, threshold), 0.0, 1.0
    if not is_cut(rule, 1.0):
        assert lowest_above(threshold) is None
        assert "masks above 1.000 (probabilities above 1: none)" in NO_MASKS.describe()
        return
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if is_cut(rule, middle) else (middle, high)
    assert lowest_above(threshold) == pytest.approx(high, abs=1e-6)
    assert f"(probabilities from {high:.4f}" in rule.describe()


def is_cut(rule, probability):
    return bool(rule.cut(to_levels(torch.tensor([[probability]])).numpy()).any())


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
    assert all(type(value) in (int, float) for value in asdict(reached).values())


def test_scores_without_images_are_nan():
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
    """For any order of summation."""
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
    """Generate predictions with areas below and above the minimum areas of the grid."""
    pairs = predicted(seed, shape=(5, 6))
    return [tuple(np.kron(part, np.ones((side // 5,) * 2, np.uint8)) for part in p) for p in pairs]


@settings(max_examples=25)
@given(SEEDS)
def test_the_best_pair_equals_that_of_an_exhaustive_search(seed):
    pairs = scaled_up(seed)
    histograms = histograms_of(pairs)
    no_masks = (PostProcess(1.0, 0, 1.0), (-1.0, 0.0, 0))
    grid = [no_masks] + [
        (PostProcess(t, area, t), (abs(t - 0.5), t, area))
        for t, area in itertools.product(THRESHOLDS, MIN_AREAS)
    ]
    # Ties: no mask anywhere first, then nearest to 0.5, then the smaller area.
    expected = min(grid, key=lambda r: (-round(r[0].dice(histograms).mean(), 12), r[1]))[0]
    assert best_pair(histograms) == expected
    best = slow_mean_dice(pairs, expected)
    assert best >= score(histograms, expected).baseline - 1e-12


@settings(max_examples=25)
@given(SEEDS)
def test_the_best_pair_uses_the_gate_map(seed):
    histograms = measured(seed, gate=True)
    rules = [PostProcess(t, area, t) for t in THRESHOLDS for area in MIN_AREAS]
    best = max([(~histograms.positive).mean(), *(r.dice(histograms).mean() for r in rules)])
    assert score(histograms, best_pair(histograms)).dice == pytest.approx(best, abs=1e-12)


def test_the_best_pair_finds_the_area_that_separates_on_the_gate_map():
    """Same probability maps; only the first image has a large gate area."""
    levels, mask = np.zeros((100, 100), np.uint8), np.zeros((100, 100), np.uint8)
    levels[:60, :60], mask[:60, :60] = 200, 1
    rows = [
        measure_prediction("a", levels, mask, gate=levels),
        measure_prediction("b", levels, mask * 0, gate=levels // 200),
    ]
    rule = best_pair(collect_histograms(["a", "b"], rows))
    assert rule == PostProcess(0.5, 256, 0.5)


def test_the_best_pair_predicts_no_mask_if_any_mask_costs():
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
