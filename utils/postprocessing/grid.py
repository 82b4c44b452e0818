"""The rules that the threshold search tries, in families, and their order if scores are equal."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np

from utils.postprocessing.components import COMPONENT_LEVELS
from utils.postprocessing.histograms import LEVELS, Histograms, level_of, threshold_of
from utils.postprocessing.rule import PostProcess

SEARCH_LEVELS = tuple(range(3, LEVELS - 1, 4))
"""63 levels, from a probability of 0.012 to 0.984."""
SEARCH_AREAS = (0, *np.geomspace(64, 65536, 31).round().astype(int).tolist())
"""Pixels; the real masks have 55 to 161,421."""


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


class Family(NamedTuple):
    """Which parameters a rule may use; predicting no mask anywhere is a rule of every family.

    Attributes:
        name: as in threshold.json.
        masks: predict masks at all.
        pair: the top threshold is the threshold.
        presence: a presence threshold.
        components: a component filter.
    """

    name: str
    masks: bool = True
    pair: bool = False
    presence: bool = False
    components: bool = False


FAMILIES = (
    Family("empty", masks=False),
    Family("pair", pair=True),
    Family("triplet"),
    Family("triplet+presence", presence=True),
    Family("triplet+components", components=True),
    Family("triplet+presence+components", presence=True, components=True),
)
"""Simplest first: each has more parameters than the one before."""


def families_for(histograms: Histograms) -> list[Family]:
    """Return the families for which `histograms` has presence and components, simplest first."""
    return [
        family
        for family in FAMILIES
        if (histograms.presence is not None or not family.presence)
        and (histograms.components is not None or not family.components)
    ]


def ungated_rules(grid: Grid, with_components: bool) -> Iterator[PostProcess]:
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


def count_filters(rule: PostProcess) -> int:
    """Count which of component area and component mean the rule uses."""
    return (rule.min_component_area > 0) + (rule.min_component_mean > 0)


def sort_key(rule: PostProcess) -> tuple[float, ...]:
    """Sort key of threshold and component filter among rules with equally many filters."""
    distance, level = distance_from_middle(level_of(rule.threshold))
    return distance, level, rule.min_component_area, rule.min_component_mean


def distance_from_middle(level: int) -> tuple[int, int]:
    """Sort key of a level: distance from probability 0.5, then the lower level."""
    return abs(2 * level - LEVELS + 1), level
