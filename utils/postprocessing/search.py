"""The threshold search: the rule with the highest Dice, over every combination of its parts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from utils.evaluation.scoring import dice_score
from utils.postprocessing.components import COMPONENT_LEVELS
from utils.postprocessing.histograms import LEVELS, Histograms, level_of, threshold_of
from utils.postprocessing.rule import LEAVE_EMPTY, PostProcess

SEARCH_LEVELS = tuple(range(3, LEVELS - 1, 4))
"""63 levels, from a probability of 0.012 to 0.984."""
SEARCH_AREAS = (0, *np.geomspace(64, 65536, 31).round().astype(int).tolist())
"""Pixels; the real masks have 55 to 161,421."""


THRESHOLDS = tuple(percent / 100 for percent in range(5, 100, 5))
"""The small grid that ranks epochs; probabilities."""
MIN_AREAS = (0, 256, 512, 1024, 2048, 4096, 8192)
"""The small grid that ranks epochs; pixels."""

_DECIMALS = 12


@dataclass(frozen=True)
class Grid:
    """The values to try; every sequence but `levels` ascends from 0, which disables its part.

    Attributes:
        levels: of top threshold and threshold; with a component filter the threshold is one of
            `COMPONENT_LEVELS`.
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

    Presence and component filters are searched where `histograms` has what they need.
    Leaving every image empty is one of the rules. Ties go to the rule that uses fewest of presence,
    component area and component mean, then to the top threshold nearest 0.5, the smaller area, the
    threshold nearest 0.5, the smaller component area and mean, and the lower presence threshold.

    Args:
        histograms: the images to choose on.
        grid: the values to try; None is `Grid()`.
    """
    grid = grid or Grid()
    areas, positive = histograms.gate_areas(), histograms.positive
    ways = list(_ways_to_draw(grid, histograms.components is not None))
    dice = dice_if_drawn(histograms, ways)
    presence_thresholds = grid.presence_thresholds if histograms.presence is not None else (0.0,)
    present = _count_present(presence_thresholds, histograms.presence, len(positive))
    simplest_first, extras = _order(presence_thresholds, grid.min_areas, ways)
    best, best_key = LEAVE_EMPTY, (mean_dice(~positive), 0)
    for top_level in sorted(grid.levels, key=_from_middle):
        passes = np.stack((present, count_passed(np.array(grid.min_areas), areas[:, top_level])))
        shape = (len(presence_thresholds), len(grid.min_areas))
        volume = dice_volume(passes, dice, positive, shape)
        cell = simplest_first[volume.ravel()[simplest_first].argmax()]
        key = (volume.ravel()[cell], -extras[cell])
        if key > best_key:
            presence, area, way = np.unravel_index(cell, volume.shape)
            best, best_key = (
                replace(
                    ways[way],
                    min_area=grid.min_areas[area],
                    top_threshold=threshold_of(top_level),
                    presence_threshold=presence_thresholds[presence],
                ),
                key,
            )
    return best


def best_pair(histograms: Histograms) -> PostProcess:
    """Choose (threshold, min_area) on a small grid, for ranking the epochs of a stage.

    Leaving every image empty is one of the rules, so the best is never below that baseline.
    Ties go to the threshold nearest 0.5, then to the smaller area.
    """
    areas, dice, positive = histograms.gate_areas(), histograms.dice(), histograms.positive
    best, best_dice = LEAVE_EMPTY, mean_dice(~positive)
    for threshold in sorted(THRESHOLDS, key=lambda t: (abs(t - 0.5), t)):
        level = level_of(threshold)
        surface = dice_surface(areas[:, level], dice[:, [level]], positive, np.array(MIN_AREAS))
        if surface.max() > best_dice:
            best_dice = surface.max()
            best = PostProcess(threshold, MIN_AREAS[surface.argmax()], threshold)
    return best


def dice_if_drawn(histograms: Histograms, rules: Sequence[PostProcess]) -> np.ndarray:
    """[N,T] float64: Dice of each image under each of T rules if it passes their gates."""
    unfiltered, true = histograms.dice(), histograms.mask.sum(axis=1)
    # A filter needs the components of a single level, a small part of the table.
    levels = {level_of(rule.threshold) for rule in rules if rule.filters_components}
    of_level = {level: _at_level(histograms, level) for level in levels}
    columns = []
    for rule in rules:
        level = level_of(rule.threshold)
        if rule.filters_components:
            columns.append(dice_score(*rule.drawn(of_level[level]), true))
        else:
            columns.append(unfiltered[:, level])
    return np.stack(columns, axis=1)


def _at_level(histograms: Histograms, level: int) -> Histograms:
    table = histograms.components
    return (
        histograms if table is None else replace(histograms, components=table[table[:, 1] == level])
    )


def _ways_to_draw(grid: Grid, with_components: bool) -> Iterator[PostProcess]:
    """Yield the rules without a gate, except those whose component filter drops nothing."""
    for level in grid.levels:
        yield PostProcess(threshold_of(level), 0, 1.0)
    levels = COMPONENT_LEVELS if with_components else ()
    for level, area, mean in product(levels, grid.component_areas, grid.component_means):
        # Every pixel of a component is at least one above the level that it is cut at.
        mean_drops = mean * (LEVELS - 1) > level + 1
        if mean_drops or (area > 0 and mean == 0):
            yield PostProcess(
                threshold_of(level), 0, 1.0, min_component_area=area, min_component_mean=mean
            )


def _count_present(
    thresholds: tuple[float, ...], presence: np.ndarray | None, images: int
) -> np.ndarray:
    """[N] int: how many of the ascending thresholds each image's presence passes."""
    if presence is None:
        return np.ones(images, int)
    return np.searchsorted(thresholds, presence.astype(float), side="left").clip(1)


def _order(
    presence_thresholds: tuple[float, ...], min_areas: tuple[int, ...], ways: list[PostProcess]
) -> tuple[np.ndarray, np.ndarray]:
    """Order the flattened cells of [presence, minimum area, way to draw] for ties.

    Returns:
        The cells, winners of ties first; and for each cell how many of presence, component area and
        component mean it uses.
    """
    shape = (len(presence_thresholds), len(min_areas), len(ways))
    presence, area, way = (index.ravel() for index in np.indices(shape))
    used = np.array([(w.min_component_area > 0) + (w.min_component_mean > 0) for w in ways])
    extras = used[way] + (presence > 0)
    place = np.empty(len(ways), int)
    place[sorted(range(len(ways)), key=lambda i: _rank(ways[i]))] = np.arange(len(ways))
    return np.lexsort((presence, place[way], area, extras)), extras


def _rank(way: PostProcess) -> tuple[float, ...]:
    level = level_of(way.threshold)
    return (*_from_middle(level), way.min_component_area, way.min_component_mean)


def _from_middle(level: int) -> tuple[int, int]:
    return abs(2 * level - LEVELS + 1), level


def dice_volume(
    passes: np.ndarray, dice: np.ndarray, positive: np.ndarray, gates: tuple[int, int]
) -> np.ndarray:
    """Mean Dice for every pair of two kinds of gates; a stricter gate passes fewer images.

    Args:
        passes: [2,N] int, how many gates of each kind an image passes, counted from the loosest.
        dice: [N,T] Dice of each image under each of T ways to draw, if it passes.
        positive: [N] bool, the true mask is not empty. Images that do not pass are left empty.
        gates: number of gates of the first kind, G, and of the second, H.

    Returns:
        [G,H,T] float64, rounded to 12 decimals so that equal scores compare equal.
    """
    if_empty = (~positive).astype(float)
    shape = tuple(count + 1 for count in gates)
    cell = np.ravel_multi_index(passes, shape)
    order = np.argsort(cell, kind="stable")
    # Images that pass the same gates are summed first, so that the sums over gates are small.
    cells, starts = np.unique(cell[order], return_index=True)
    gain = np.zeros((np.prod(shape), dice.shape[1]))
    gain[cells] = np.add.reduceat((dice - if_empty[:, None])[order], starts, axis=0)
    gain = gain.reshape(*shape, -1)[::-1, ::-1].cumsum(axis=0).cumsum(axis=1)[::-1, ::-1]
    return np.round((if_empty.sum() + gain[1:, 1:]) / len(dice), _DECIMALS)


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
        [A,T] float64, rounded as `dice_volume` does.
    """
    ascending, place = np.unique(min_areas, return_inverse=True)
    passes = np.stack((count_passed(ascending, gate), np.ones_like(gate)))
    return dice_volume(passes, dice, positive, (len(ascending), 1))[place, 0]


def count_passed(least: np.ndarray, values: np.ndarray) -> np.ndarray:
    """[N] int: how many of the ascending `least` [A] each of the [N] values reaches."""
    return np.searchsorted(least, values, side="right")


def mean_dice(dice: np.ndarray) -> float:
    """Mean of [N] Dice, rounded as `dice_volume` does."""
    return round(float(dice.mean()), _DECIMALS)
