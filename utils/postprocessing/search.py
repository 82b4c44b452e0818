"""The threshold search: the rule with the highest Dice over every combination of parameters."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from utils.evaluation.scoring import dice_score
from utils.postprocessing.components import COMPONENT_LEVELS
from utils.postprocessing.histograms import LEVELS, Histograms, level_of, threshold_of
from utils.postprocessing.rule import NO_MASKS, PostProcess

SEARCH_LEVELS = tuple(range(3, LEVELS - 1, 4))
"""63 levels, from a probability of 0.012 to 0.984."""
SEARCH_AREAS = (0, *np.geomspace(64, 65536, 31).round().astype(int).tolist())
"""Pixels; the real masks have 55 to 161,421."""

THRESHOLDS = tuple(percent / 100 for percent in range(5, 100, 5))
"""Probabilities of the small grid that ranks epochs."""
MIN_AREAS = (0, 256, 512, 1024, 2048, 4096, 8192)
"""Pixels of the small grid that ranks epochs."""

_DECIMALS = 12


@dataclass(frozen=True)
class Grid:
    """The values to try. All but `levels` ascend from 0, which switches the parameter off.

    Attributes:
        levels: for threshold and top threshold; with a component filter the threshold is one of
            `COMPONENT_LEVELS` instead.
        min_areas: pixels.
        presence_thresholds: probabilities.
        component_areas: pixels.
        component_means: probabilities.
    """

    levels: tuple[int, ...] = SEARCH_LEVELS
    min_areas: tuple[int, ...] = SEARCH_AREAS
    presence_thresholds: tuple[float, ...] = tuple(tenth / 10 for tenth in range(10))
    component_areas: tuple[int, ...] = (0, 64, 128, 256, 512, 1024, 2048)
    component_means: tuple[float, ...] = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


def best_rule(histograms: Histograms, grid: Grid | None = None) -> PostProcess:
    """Choose the rule with the highest Dice over every combination that `histograms` allows.

    Presence thresholds and component filters are searched if `histograms` has presence and
    components. Predicting no mask anywhere is one of the rules. Ties go to the rule that uses the
    fewest of presence, component area and component mean, then to the top threshold nearest 0.5,
    the smaller area, the threshold nearest 0.5, the smaller component area and mean, and the lower
    presence threshold.

    Args:
        histograms: the images to choose on.
        grid: the values to try; None is `Grid()`.
    """
    grid = grid or Grid()
    areas, positive = histograms.gate_areas(), histograms.positive
    rules = list(_ungated_rules(grid, histograms.components is not None))
    dice = ungated_dice(histograms, rules)
    presence_thresholds = grid.presence_thresholds if histograms.presence is not None else (0.0,)
    presence_passed = _count_presence_passed(
        presence_thresholds, histograms.presence, len(positive)
    )
    simplest_first, extras = _tie_order(presence_thresholds, grid.min_areas, rules)
    best, best_key = NO_MASKS, (mean_dice(~positive), 0)
    for top_level in sorted(grid.levels, key=_distance_from_middle):
        area_passed = count_passed(np.array(grid.min_areas), areas[:, top_level])
        passed = np.stack((presence_passed, area_passed))
        shape = (len(presence_thresholds), len(grid.min_areas))
        volume = dice_volume(passed, dice, positive, shape)
        # argmax returns the first maximum, which is the winner of a tie.
        cell = simplest_first[volume.ravel()[simplest_first].argmax()]
        key = (volume.ravel()[cell], -extras[cell])
        if key > best_key:
            presence, area, rule = np.unravel_index(cell, volume.shape)
            best, best_key = (
                replace(
                    rules[rule],
                    min_area=grid.min_areas[area],
                    top_threshold=threshold_of(top_level),
                    presence_threshold=presence_thresholds[presence],
                ),
                key,
            )
    return best


def best_pair(histograms: Histograms) -> PostProcess:
    """Choose (threshold, min_area) on a small grid, for ranking the epochs of a stage.

    Predicting no mask anywhere is one of the rules, so the best is never below that baseline.
    Ties go to the threshold nearest 0.5, then to the smaller area.
    """
    areas, dice, positive = histograms.gate_areas(), histograms.dice(), histograms.positive
    best, best_dice = NO_MASKS, mean_dice(~positive)
    for threshold in sorted(THRESHOLDS, key=lambda t: (abs(t - 0.5), t)):
        level = level_of(threshold)
        surface = dice_surface(areas[:, level], dice[:, [level]], positive, np.array(MIN_AREAS))
        if surface.max() > best_dice:
            best_dice = surface.max()
            best = PostProcess(threshold, MIN_AREAS[surface.argmax()], threshold)
    return best


def ungated_dice(histograms: Histograms, rules: Sequence[PostProcess]) -> np.ndarray:
    """[N,T] float64: Dice of each image under each of T rules as if it passed their gates."""
    unfiltered, true = histograms.dice(), histograms.mask.sum(axis=1)
    # Many rules share a level; selecting its rows of the table once saves most of the time.
    levels = {level_of(rule.threshold) for rule in rules if rule.filters_components}
    by_level = {level: _at_level(histograms, level) for level in levels}
    columns = []
    for rule in rules:
        level = level_of(rule.threshold)
        if rule.filters_components:
            columns.append(dice_score(*rule.measure_ungated(by_level[level]), true))
        else:
            columns.append(unfiltered[:, level])
    return np.stack(columns, axis=1)


def _at_level(histograms: Histograms, level: int) -> Histograms:
    """Return the histograms with the components of one level only."""
    table = histograms.components
    return (
        histograms if table is None else replace(histograms, components=table[table[:, 1] == level])
    )


def _ungated_rules(grid: Grid, with_components: bool) -> Iterator[PostProcess]:
    """Yield every threshold and component filter, except filters that cannot drop anything."""
    for level in grid.levels:
        yield PostProcess(threshold_of(level), 0, 1.0)
    levels = COMPONENT_LEVELS if with_components else ()
    for level, area, mean in product(levels, grid.component_areas, grid.component_means):
        # Every pixel of a component is at level + 1 or higher, and so is their mean.
        mean_can_drop = mean * (LEVELS - 1) > level + 1
        if mean_can_drop or (area > 0 and mean == 0):
            yield PostProcess(
                threshold_of(level), 0, 1.0, min_component_area=area, min_component_mean=mean
            )


def _count_presence_passed(
    thresholds: tuple[float, ...], presence: np.ndarray | None, images: int
) -> np.ndarray:
    """[N] int: how many of the ascending thresholds, which start at 0, each presence passes."""
    if presence is None:
        return np.ones(images, int)
    # At least one, since every image passes a threshold of 0.
    return np.searchsorted(thresholds, presence.astype(float), side="left").clip(1)


def _tie_order(
    presence_thresholds: tuple[float, ...], min_areas: tuple[int, ...], rules: list[PostProcess]
) -> tuple[np.ndarray, np.ndarray]:
    """Order the flattened cells of [presence threshold, minimum area, ungated rule] for ties.

    Returns:
        Indices of the cells, winners of ties first; and for each cell how many of presence,
        component area and component mean it uses.
    """
    shape = (len(presence_thresholds), len(min_areas), len(rules))
    presence, area, rule = (index.ravel() for index in np.indices(shape))
    filters = np.array([(r.min_component_area > 0) + (r.min_component_mean > 0) for r in rules])
    extras = filters[rule] + (presence > 0)
    rank = np.empty(len(rules), int)
    rank[sorted(range(len(rules)), key=lambda i: _sort_key(rules[i]))] = np.arange(len(rules))
    # lexsort sorts by its last key first.
    return np.lexsort((presence, rank[rule], area, extras)), extras


def _sort_key(rule: PostProcess) -> tuple[float, ...]:
    distance, level = _distance_from_middle(level_of(rule.threshold))
    return distance, level, rule.min_component_area, rule.min_component_mean


def _distance_from_middle(level: int) -> tuple[int, int]:
    """Sort key of a level: distance from probability 0.5, then the lower level."""
    return abs(2 * level - LEVELS + 1), level


def dice_volume(
    passed: np.ndarray, dice: np.ndarray, positive: np.ndarray, gates: tuple[int, int]
) -> np.ndarray:
    """Mean Dice for every pair of gates of two kinds; a stricter gate passes fewer images.

    Args:
        passed: [2,N] int, how many gates of each kind an image passes, counted from the loosest.
        dice: [N,T] Dice of each image under each of T rules, if it passes.
        positive: [N] bool, the true mask is not empty. Images that do not pass get no mask.
        gates: number of gates of the first kind, G, and of the second, H.

    Returns:
        [G,H,T] float64, rounded to 12 decimals so that equal scores compare equal.
    """
    dice_without_mask = (~positive).astype(float)
    shape = tuple(count + 1 for count in gates)
    cell = np.ravel_multi_index(passed, shape)
    order = np.argsort(cell, kind="stable")
    # Images that pass the same gates are summed first, so the cumulative sums are over gates only.
    cells, starts = np.unique(cell[order], return_index=True)
    gain = np.zeros((np.prod(shape), dice.shape[1]))
    gain[cells] = np.add.reduceat((dice - dice_without_mask[:, None])[order], starts, axis=0)
    # An image that passes k gates passes each of the k loosest: sum from the strictest down.
    gain = gain.reshape(*shape, -1)[::-1, ::-1].cumsum(axis=0).cumsum(axis=1)[::-1, ::-1]
    return np.round((dice_without_mask.sum() + gain[1:, 1:]) / len(dice), _DECIMALS)


def dice_surface(
    gate: np.ndarray, dice: np.ndarray, positive: np.ndarray, min_areas: np.ndarray
) -> np.ndarray:
    """Mean Dice for every minimum area and threshold, at one top threshold.

    Args:
        gate: [N] pixels of each gate map above the top threshold.
        dice: [N,T] Dice of each image at each threshold, if it passes the gate.
        positive: [N] bool, the true mask is not empty.
        min_areas: [A] pixels.

    Returns:
        [A,T] float64, rounded like `dice_volume`.
    """
    ascending, index = np.unique(min_areas, return_inverse=True)
    passed = np.stack((count_passed(ascending, gate), np.ones_like(gate)))
    return dice_volume(passed, dice, positive, (len(ascending), 1))[index, 0]


def count_passed(minima: np.ndarray, values: np.ndarray) -> np.ndarray:
    """[N] int: how many of the ascending `minima` [A] each of the [N] values reaches."""
    return np.searchsorted(minima, values, side="right")


def mean_dice(dice: np.ndarray) -> float:
    """Mean of [N] Dice, rounded like `dice_volume`."""
    return round(float(dice.mean()), _DECIMALS)
