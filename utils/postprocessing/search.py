"""The threshold search: the best rule of each family, over every combination of parameters."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from utils.postprocessing.averages import (
    count_passed,
    dice_surface,
    mean_dice,
    round_mean,
    sum_gains,
    ungated_dice,
)
from utils.postprocessing.grid import (
    Family,
    Grid,
    count_filters,
    distance_from_middle,
    families_for,
    sort_key,
    ungated_rules,
)
from utils.postprocessing.histograms import Histograms, level_of, threshold_of
from utils.postprocessing.rule import NO_MASKS, PostProcess

THRESHOLDS = tuple(percent / 100 for percent in range(5, 100, 5))
"""Probabilities of the small grid that ranks epochs."""
MIN_AREAS = (0, 256, 512, 1024, 2048, 4096, 8192)
"""Pixels of the small grid that ranks epochs."""


def best_rule(
    histograms: Histograms, grid: Grid | None = None, family: Family | None = None
) -> PostProcess:
    """Choose the rule of a family with the highest Dice over every combination of its parameters.

    Ties go to predicting no mask anywhere, then to the rule that uses the fewest of presence,
    component area and component mean, then to the top threshold nearest 0.5, the smaller area, the
    threshold nearest 0.5, the smaller component area and mean, and the lower presence threshold.

    Args:
        histograms: the images to choose on.
        grid: the values to try; None is `Grid()`.
        family: None is the one with the most parameters that `histograms` allows.
    """
    family, part = family or families_for(histograms)[-1], frozenset({0})
    parts = np.zeros(len(histograms.ids), int)
    return best_rules(histograms, parts, [part], [family], grid)[part, family.name]


def best_rules(
    histograms: Histograms,
    part_of: np.ndarray,
    unions: Iterable[frozenset[int]],
    families: Sequence[Family],
    grid: Grid | None = None,
) -> dict[tuple[frozenset[int], str], PostProcess]:
    """Choose as `best_rule` does, for every union of parts of the images and every family.

    Sums of Dice over each part are calculated once, and added up for each union.

    Args:
        histograms: all images.
        part_of: [N] int, the part that each image belongs to, from 0.
        unions: sets of parts; each has at least one image.
        families: the families to search.
        grid: the values to try; None is `Grid()`.

    Returns:
        The rule by union and name of the family.
    """
    space, unions = _Space(histograms, grid or Grid()), list(unions)
    members = np.array([np.isin(part_of, list(union)) for union in unions])
    without_mask = (~histograms.positive).astype(float)
    counts, baselines = members.sum(axis=1), members @ without_mask
    best = {(union, family.name): NO_MASKS for union in unions for family in families}
    # Without masks no part is used, so a rule with an equal score cannot replace it.
    scores = [(mean_dice(without_mask[inside]), 0) for inside in members]
    keys = {(u, f.name): key for u, key in zip(unions, scores, strict=True) for f in families}
    for level in space.levels(part_of):
        for union, count, baseline in zip(unions, counts, baselines, strict=True):
            within = np.isin(np.arange(len(level.gains)), list(union)).astype(float)
            sums = baseline + np.tensordot(within, level.gains, axes=1)
            for family in families:
                name = (union, family.name)
                found = space.first_maximum(sums, count, level, family, keys[name])
                if found:
                    best[name], keys[name] = found
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


class _Level(NamedTuple):
    """The sums for one top threshold.

    Attributes:
        top: level of the top threshold.
        min_areas: positions of minimum areas in the grid, without those that pass the same images
            as a smaller one.
        gains: [P,G,H,T] gain in Dice over predicting no mask, summed over each part, for every
            presence threshold, minimum area and ungated rule.
    """

    top: int
    min_areas: np.ndarray
    gains: np.ndarray


class _Space:
    """All rules of a grid, with the Dice of each image and the order for ties."""

    def __init__(self, histograms: Histograms, grid: Grid) -> None:
        self._grid, self._areas = grid, histograms.gate_areas()
        rules = list(ungated_rules(grid, histograms.components is not None))
        dice = ungated_dice(histograms, rules)
        kept = _distinct(rules, dice)
        self._rules = [rules[i] for i in kept]
        self._gain = dice[:, kept] - (~histograms.positive)[:, None]
        self._filters = np.array([count_filters(rule) for rule in self._rules])
        order = sorted(range(len(kept)), key=lambda i: sort_key(self._rules[i]))
        self._rank = np.argsort(order)
        has_head = histograms.presence is not None
        self._presences = grid.presence_thresholds if has_head else (0.0,)
        self._presence_passed = _count_presence_passed(
            self._presences, histograms.presence, len(dice)
        )

    def levels(self, part_of: np.ndarray) -> Iterator[_Level]:
        """Yield the sums for every top threshold, winners of ties first."""
        parts = int(part_of.max()) + 1
        for top in sorted(self._grid.levels, key=distance_from_middle):
            passed = count_passed(np.array(self._grid.min_areas), self._areas[:, top])
            # Area k passes fewer images than area k - 1 only if an image passes exactly k areas.
            distinct = np.unique(passed)
            kept = np.unique([0, *distinct[distinct < len(self._grid.min_areas)]])
            gates = np.stack((self._presence_passed, np.searchsorted(kept, passed)))
            shape = (parts, len(self._presences), len(kept))
            yield _Level(top, kept, sum_gains(part_of, gates, self._gain, shape))

    def first_maximum(
        self, sums: np.ndarray, count: int, level: _Level, family: Family, least: tuple[float, int]
    ) -> tuple[PostProcess, tuple[float, int]] | None:
        """Find the best rule of a family at one top threshold.

        Args:
            sums: [G,H,T] sum of Dice over the images.
            count: number of images.
            level: the top threshold.
            family: the family.
            least: mean Dice and number of parts used, negative, that the rule has to exceed.

        Returns:
            The rule that wins ties, and its mean Dice and number of parts used, negative; None if
            no rule exceeds `least`.
        """
        if not family.masks:
            return None
        first, last = 0, len(self._rules) if family.components else len(self._grid.levels)
        if family.pair:
            first = self._grid.levels.index(level.top)
            last = first + 1
        own = sums[: None if family.presence else 1, :, first:last]
        highest = float(round_mean(own.max(), count))
        if (highest, 0) <= least:
            return None
        presence, area, rule = np.nonzero(round_mean(own, count) == highest)
        rule += first
        extras = self._filters[rule] + (presence > 0)
        # lexsort sorts by its last key first.
        winner = np.lexsort((presence, self._rank[rule], area, extras))[0]
        key = (highest, -int(extras[winner]))
        if key <= least:
            return None
        return replace(
            self._rules[rule[winner]],
            min_area=self._grid.min_areas[level.min_areas[area[winner]]],
            top_threshold=threshold_of(level.top),
            presence_threshold=self._presences[presence[winner]],
        ), key


def _count_presence_passed(
    thresholds: tuple[float, ...], presence: np.ndarray | None, images: int
) -> np.ndarray:
    """[N] int: how many of the ascending thresholds, which start at 0, each presence passes."""
    if presence is None:
        return np.ones(images, int)
    # At least one, since every image passes a threshold of 0.
    return np.searchsorted(thresholds, presence.astype(float), side="left").clip(1)


def _distinct(rules: Sequence[PostProcess], dice: np.ndarray) -> list[int]:
    """Return the indices of the rules, without filters that give the Dice of a simpler rule."""
    ties = sorted(range(len(rules)), key=lambda i: (count_filters(rules[i]), sort_key(rules[i])))
    first: dict[bytes, int] = {}
    for i in ties:
        first.setdefault(dice[:, i].tobytes(), i)
    kept = set(first.values())
    return [i for i, rule in enumerate(rules) if i in kept or not rule.filters_components]
