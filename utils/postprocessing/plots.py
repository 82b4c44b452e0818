"""The figure of a threshold search."""

import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from utils.files import atomic_write
from utils.postprocessing.averages import dice_surface, ungated_dice
from utils.postprocessing.components import COMPONENT_LEVELS
from utils.postprocessing.grid import SEARCH_AREAS, SEARCH_LEVELS
from utils.postprocessing.histograms import LEVELS, Histograms, level_of, threshold_of
from utils.postprocessing.rule import PostProcess

_ALL, _POSITIVE, _CHOSEN, _BASELINE = "#30638e", "#3b9c6f", "#d1495b", "#777777"
_LINE = 170
"""Characters of a line that fits the figure."""
_BELOW_ALL = -1
"""Area of an image that must fail every minimum area, even 0."""


def draw_threshold(histograms: Histograms, rule: PostProcess, path: Path) -> np.ndarray:
    """Plot how Dice depends on the thresholds, mark the chosen point, and write a png.

    Left: Dice over the threshold, for all images and for positives. Right: Dice over threshold and
    minimum area. All other parameters are those of the rule. If it filters components, only
    `COMPONENT_LEVELS` are plotted, since components are measured at no other threshold.

    Returns:
        The figure, [H,W,3] uint8 RGB.
    """
    figure = Figure(figsize=(11, 4.2), dpi=110, layout="constrained")
    figure.suptitle(textwrap.fill(rule.describe(), _LINE), fontsize="small")
    left, right = figure.subplots(1, 2)
    # The minimum area is an axis of the plot; the presence threshold is not.
    present = replace(rule, min_area=0).passes(histograms)
    gate = np.where(present, histograms.gate_areas()[:, level_of(rule.top_threshold)], _BELOW_ALL)
    _draw_curves(left, histograms, gate, rule)
    _draw_heat_map(right, histograms, gate, rule)
    with atomic_write(path) as temporary:
        figure.savefig(temporary)
        return np.asarray(Image.open(temporary).convert("RGB"))


def _draw_curves(axes: Axes, histograms: Histograms, gate: np.ndarray, rule: PostProcess) -> None:
    levels = COMPONENT_LEVELS if rule.filters_components else range(LEVELS)
    thresholds, ungated = _dice_over(histograms, rule, levels)
    positive, area = histograms.positive, np.array([rule.min_area])
    for subset, colour, name in (
        (np.ones_like(positive), _ALL, "all images"),
        (positive, _POSITIVE, "images with a mask"),
    ):
        if subset.any():
            dice = dice_surface(gate[subset], ungated[subset], positive[subset], area)[0]
            axes.plot(thresholds, dice, color=colour, label=name)
    axes.axhline((~positive).mean(), color=_BASELINE, linestyle="--", label="no mask anywhere")
    axes.axvline(rule.threshold, color=_CHOSEN, label=f"chosen: {rule.threshold:.3f}")
    axes.set(xlabel="threshold", ylabel="mean Dice", xlim=(0, 1), ylim=(0, 1))
    axes.set_title("mean Dice over threshold")
    axes.legend(frameon=False)


def _draw_heat_map(axes: Axes, histograms: Histograms, gate: np.ndarray, rule: PostProcess) -> None:
    levels, areas = (
        COMPONENT_LEVELS if rule.filters_components else SEARCH_LEVELS,
        np.array(SEARCH_AREAS),
    )
    thresholds, ungated = _dice_over(histograms, rule, levels)
    surface = dice_surface(gate, ungated, histograms.positive, areas)
    mesh = axes.pcolormesh(thresholds, np.arange(len(areas)), surface, shading="nearest")
    axes.figure.colorbar(mesh, ax=axes, label="mean Dice")
    ticks = np.arange(0, len(areas), 5)
    axes.set_yticks(ticks, [f"{areas[i]:,}" for i in ticks])
    row = np.searchsorted(areas, rule.min_area)
    axes.plot(rule.threshold, row, "o", color=_CHOSEN, markersize=9, markeredgecolor="white")
    axes.set(xlabel="threshold", ylabel=f"minimum area, pixels above {rule.top_threshold:.3f}")
    axes.set_title("mean Dice over threshold and minimum area")


def _dice_over(
    histograms: Histograms, rule: PostProcess, levels: Sequence[int]
) -> tuple[list[float], np.ndarray]:
    """Return the threshold of each level, and the [N,T] ungated Dice of every image at it."""
    thresholds = [threshold_of(level) for level in levels]
    rules = [replace(rule, threshold=threshold) for threshold in thresholds]
    return thresholds, ungated_dice(histograms, rules)
