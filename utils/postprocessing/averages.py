"""Mean Dice of many rules at once, from the Dice that each image has if it passes the gates."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from utils.evaluation.scoring import dice_score
from utils.postprocessing.histograms import Histograms, level_of
from utils.postprocessing.rule import PostProcess

_DECIMALS = 12


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


def sum_gains(
    part_of: np.ndarray, passed: np.ndarray, gain: np.ndarray, shape: tuple[int, int, int]
) -> np.ndarray:
    """Sum over the images of each part that pass, for every pair of gates of two kinds.

    Args:
        part_of: [N] int, the part that each image belongs to.
        passed: [2,N] int, how many gates of each kind an image passes, counted from the loosest; a
            stricter gate passes fewer images.
        gain: [N,T] what each image adds under each of T rules, if it passes.
        shape: number of parts, P, of gates of the first kind, G, and of the second, H.

    Returns:
        [P,G,H,T] float64.
    """
    parts, *gates = shape
    bounds = (parts, *(count + 1 for count in gates))
    cell = np.ravel_multi_index(np.stack((part_of, *passed)), bounds)
    order = np.argsort(cell, kind="stable")
    # Images that pass the same gates are summed first, so the cumulative sums are over gates only.
    cells, starts = np.unique(cell[order], return_index=True)
    sums = np.zeros((np.prod(bounds), gain.shape[1]))
    sums[cells] = np.add.reduceat(gain[order], starts, axis=0)
    # An image that passes k gates passes each of the k loosest: sum from the strictest down.
    strictest_first = sums.reshape(*bounds, -1)[:, ::-1, ::-1]
    return strictest_first.cumsum(axis=1).cumsum(axis=2)[:, ::-1, ::-1][:, 1:, 1:]


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
        [A,T] float64, rounded as by `round_mean`.
    """
    ascending, index = np.unique(min_areas, return_inverse=True)
    passed = np.stack((count_passed(ascending, gate), np.ones_like(gate)))
    without_mask = (~positive).astype(float)
    gain = dice - without_mask[:, None]
    sums = sum_gains(np.zeros(len(dice), int), passed, gain, (1, len(ascending), 1))[0, :, 0]
    return round_mean(without_mask.sum() + sums, len(dice))[index]


def count_passed(minima: np.ndarray, values: np.ndarray) -> np.ndarray:
    """[N] int: how many of the ascending `minima` [A] each of the [N] values reaches."""
    return np.searchsorted(minima, values, side="right")


def round_mean(sums: np.ndarray, count: int) -> np.ndarray:
    """Divide sums of Dice by the number of images; equal means compare equal after rounding."""
    return np.round(sums / count, _DECIMALS)


def mean_dice(dice: np.ndarray) -> float:
    """Mean of [N] Dice, rounded as by `round_mean`."""
    return round(float(dice.mean()), _DECIMALS)
