"""The search for the best rule, against an exhaustive one."""

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from tests.helpers import makers
from tests.helpers.makers import TOY, blobs, make_images, take
from utils.inference.out_of_fold import collect_histograms, measure_prediction
from utils.postprocessing.components import COMPONENT_LEVELS
from utils.postprocessing.grid import FAMILIES, Grid, families_for
from utils.postprocessing.histograms import threshold_of
from utils.postprocessing.rule import NO_MASKS, PostProcess, score
from utils.postprocessing.search import best_rule, best_rules


def histograms_of(levels, masks):
    return makers.histograms_of(list(zip(levels, masks, strict=True)))


def every_rule(grid, presence, components):
    """List all rules of a grid with their sort key for ties, from the definition."""
    ungated = [(level, 0, 0.0) for level in grid.levels]
    if components:
        # A minimum mean at or below the level drops nothing.
        ungated += [
            (level, area, mean)
            for level in COMPONENT_LEVELS
            for area in grid.component_areas
            for mean in grid.component_means
            if area or mean * 255 > level
        ]
    rules: list[tuple[PostProcess, tuple[float, ...]]] = [(NO_MASKS, (-1,))]
    for top, least, gate in product(
        grid.levels, grid.min_areas, grid.presence_thresholds if presence else (0.0,)
    ):
        for level, area, mean in ungated:
            rule = PostProcess(threshold_of(level), least, threshold_of(top), gate, area, mean)
            used = (gate > 0) + (area > 0) + (mean > 0)
            middle = (abs(level - 127.5), level)
            order = (used, abs(top - 127.5), top, least, *middle, area, mean, gate)
            rules.append((rule, order))
    return rules


EVERYTHING = [(True, True, True), (False, True, True), (False, False, True), (True, True, False)]


@pytest.mark.parametrize(("seed", "images"), [*((seed, 10) for seed in range(6)), (18, 3), (40, 3)])
@pytest.mark.parametrize(("gate", "presence", "components"), EVERYTHING)
def test_the_joint_search_equals_an_exhaustive_search(seed, images, gate, presence, components):
    """With few images, many rules tie."""
    histograms = blobs(seed, gate, presence, components, images)
    expected = min(
        every_rule(TOY, presence, components),
        key=lambda pair: (-round(pair[0].dice(histograms).mean(), 12), pair[1]),
    )[0]
    assert best_rule(histograms, TOY) == expected


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(2))
def test_the_rule_of_a_family_is_its_best_for_every_union_of_parts(family, seed):
    """Part 2 alone is a single image; a family has the rules that use no more than it may."""
    histograms = blobs(seed, seed % 2 == 0, True, True)
    part_of = np.array([0, 1, 0, 1, 2, 0, 1, 3, 3, 3])
    unions = [frozenset(union) for union in ({2}, {0, 1}, {1, 2, 3})]
    rules = [
        (rule, order)
        for rule, order in every_rule(TOY, family.presence, family.components)
        if rule == NO_MASKS
        or (family.masks and (not family.pair or rule.top_threshold == rule.threshold))
    ]
    found = best_rules(histograms, part_of, unions, [family], TOY)
    for union in unions:
        own = take(histograms, np.flatnonzero(np.isin(part_of, list(union))))
        scored = [(-round(rule.dice(own).mean(), 12), order, rule) for rule, order in rules]
        assert found[union, family.name] == min(scored)[2]
        assert found[union, family.name] == best_rule(own, TOY, family)


def test_families_need_what_they_use():
    histograms = blobs(0, False, True, True)
    assert tuple(families_for(histograms)) == FAMILIES
    without = replace(histograms, components=None)
    assert [family.name for family in families_for(without)][3:] == ["triplet+presence"]
    without = replace(histograms, presence=None)
    assert [family.name for family in families_for(without)][3:] == ["triplet+components"]


def test_the_synthetic_blobs_need_every_parameter():
    """Otherwise the search could be wrong about a parameter and pass."""
    rules = [best_rule(blobs(seed, *EVERYTHING[0]), TOY) for seed in range(6)]
    for name, value in vars(NO_MASKS).items():
        assert len({vars(rule)[name] for rule in rules} - {value}) > 0, name
    assert sum(rule.filters_components and rule.presence_threshold > 0 for rule in rules) > 0


def crafted(presence=None):
    """Two images: one with a large confident blob and small specks, one with specks only."""
    blob, specks = np.zeros((2, 40, 40), np.uint8)
    blob[5:30, 5:30] = 240
    specks[35, ::3] = 240
    pairs = [(blob + specks, blob // 240), (specks, blob * 0)]
    rows = [
        measure_prediction(f"image{i}", *pair, presence=presence and presence[i])
        for i, pair in enumerate(pairs)
    ]
    return collect_histograms(["image0", "image1"], rows)


def test_specks_are_dropped_if_they_cost():
    """Only a component filter predicts exactly the blob, and no mask for the empty image."""
    rule = best_rule(crafted())
    assert rule == PostProcess(threshold_of(127), 0, threshold_of(127), min_component_area=64)
    assert score(crafted(), rule).dice == 1


def test_of_equal_rules_the_one_with_fewer_parameters_is_chosen():
    """The component filter suffices, so the presence threshold stays off."""
    rule = best_rule(crafted(presence=(0.9, 0.1)))
    assert rule.presence_threshold == 0
    assert rule.min_component_area == 64
    gated = best_rule(replace(crafted(presence=(0.9, 0.1)), components=None))
    assert (gated.presence_threshold, gated.min_area) == (0, 64)


def test_a_wrong_presence_head_is_ignored():
    """Here the positive image has presence 0."""
    rule = best_rule(crafted(presence=(0.0, 0.9)))
    assert rule == best_rule(crafted())
    assert score(crafted(presence=(0.0, 0.9)), rule).dice == 1


def test_presence_is_used_if_areas_do_not_separate():
    """Both images have the same map; only presence differs."""
    levels = np.full((2, 20, 20), 200, np.uint8)
    histograms = histograms_of(levels, np.stack((levels[0] // 200, levels[0] * 0)))
    assert score(histograms, best_rule(histograms)).dice == 0.5
    histograms = replace(histograms, presence=np.array([0.45, 0.35], np.float32))
    rule = best_rule(histograms)
    assert rule.presence_threshold == 0.4
    assert score(histograms, rule).dice == 1


def dice_by_hand(levels, mask, top, area, threshold):
    """Compute Dice pixel by pixel, without histograms."""
    above_top = predicted = both = true = 0
    for y in range(9):
        for x in range(9):
            above_top += int(levels[y][x]) > top
            predicted += int(levels[y][x]) > threshold
            true += int(mask[y][x])
            both += int(levels[y][x]) > threshold and bool(mask[y][x])
    if above_top < area:
        predicted = both = 0
    return 1.0 if predicted + true == 0 else 2 * both / (predicted + true)


def mean_by_hand(levels, masks, top, area, threshold):
    values = [dice_by_hand(*pair, top, area, threshold) for pair in zip(levels, masks, strict=True)]
    return math.fsum(values) / len(values)


@pytest.mark.parametrize("sharp", [0.2, 0.5, 0.9])
def test_the_search_equals_a_pixel_by_pixel_search(sharp):
    levels, masks = make_images(8, seed=1, sharp=sharp)
    grid, areas = (0, 60, 127, 128, 190, 254), (0, 1, 3, 12, 81, 82)
    rule = best_rule(histograms_of(levels, masks), Grid(grid, areas))
    by_hand = {
        (top, area, threshold): mean_by_hand(levels, masks, top, area, threshold)
        for top in grid
        for area in areas
        for threshold in grid
    }
    best = max(by_hand.values())
    tied = [key for key, value in by_hand.items() if value > best - 1e-12]
    # Ties: top threshold nearest the middle, then the smaller area, then threshold nearest it.
    expected = min(tied, key=lambda k: (abs(k[0] - 127.5), k[0], k[1], abs(k[2] - 127.5), k[2]))
    found = (round(rule.top_threshold * 255), rule.min_area, round(rule.threshold * 255))
    assert found == expected
    assert score(histograms_of(levels, masks), rule).dice == pytest.approx(best, abs=1e-12)


def test_no_mask_is_predicted_if_no_rule_beats_it():
    levels, masks = make_images(6, seed=2)
    assert best_rule(histograms_of(levels, np.zeros_like(masks))) == NO_MASKS
    assert best_rule(histograms_of(np.zeros_like(levels), masks)) == NO_MASKS


def test_the_full_search_is_never_worse_than_a_plain_pair():
    levels, masks = make_images(30, seed=3)
    histograms = histograms_of(levels, masks)
    pairs = [PostProcess(t / 255, a, t / 255) for t in range(3, 255, 4) for a in (0, 64)]
    best_pair = max(score(histograms, rule).dice for rule in pairs)
    assert score(histograms, best_rule(histograms)).dice >= best_pair - 1e-12
