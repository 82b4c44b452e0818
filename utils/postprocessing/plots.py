"""Figures drawn with matplotlib."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from utils.files import atomic_write
from utils.postprocessing.components import COMPONENT_LEVELS
from utils.postprocessing.histograms import LEVELS, Histograms, level_of, threshold_of
from utils.postprocessing.rule import PostProcess
from utils.postprocessing.search import SEARCH_AREAS, SEARCH_LEVELS, dice_if_drawn, dice_surface

_ALL, _POSITIVE, _CHOSEN, _BASELINE = "#30638e", "#3b9c6f", "#d1495b", "#777777"
_NEVER = -1
"""Pixels of an image that passes no minimum area."""


def draw_threshold(histograms: Histograms, rule: PostProcess, path: Path) -> np.ndarray:
    """Draw how Dice depends on the thresholds, with the chosen point marked, and write a png.

    Left, Dice over the threshold behind the chosen gates, for all images and for positives. Right,
    a heat map over threshold and minimum area behind the chosen top threshold. All but the parts
    that an axis shows is as the rule has it; where it drops components, Dice is known at some
    thresholds only.

    Returns:
        The picture, [H,W,3] uint8 RGB.
    """
    figure = Figure(figsize=(11, 4.2), dpi=110, layout="constrained")
    figure.suptitle(rule.describe(), fontsize="small")
    left, right = figure.subplots(1, 2)
    anyhow = replace(rule, min_area=0).passes(histograms)
    gate = np.where(anyhow, histograms.gate_areas()[:, level_of(rule.top_threshold)], _NEVER)
    _draw_curves(left, histograms, gate, rule)
    _draw_heat_map(right, histograms, gate, rule)
    with atomic_write(path) as temporary:
        figure.savefig(temporary)
        return np.asarray(Image.open(temporary).convert("RGB"))


def _draw_curves(axes: Axes, histograms: Histograms, gate: np.ndarray, rule: PostProcess) -> None:
    levels = COMPONENT_LEVELS if rule.filters_components else range(LEVELS)
    thresholds, drawn = _dice_over(histograms, rule, levels)
    positive, area = histograms.positive, np.array([rule.min_area])
    for chosen, colour, name in (
        (np.ones_like(positive), _ALL, "all images"),
        (positive, _POSITIVE, "images with a mask"),
    ):
        if chosen.any():
            dice = dice_surface(gate[chosen], drawn[chosen], positive[chosen], area)[0]
            axes.plot(thresholds, dice, color=colour, label=name)
    axes.axhline(
        (~positive).mean(), color=_BASELINE, linestyle="--", label="every image left empty"
    )
    axes.axvline(rule.threshold, color=_CHOSEN, label=f"chosen: {rule.threshold:.3f}")
    axes.set(xlabel="threshold", ylabel="mean Dice", xlim=(0, 1), ylim=(0, 1))
    axes.set_title("mean Dice over threshold")
    axes.legend(frameon=False)


def _draw_heat_map(axes: Axes, histograms: Histograms, gate: np.ndarray, rule: PostProcess) -> None:
    levels, areas = (
        COMPONENT_LEVELS if rule.filters_components else SEARCH_LEVELS,
        np.array(SEARCH_AREAS),
    )
    thresholds, drawn = _dice_over(histograms, rule, levels)
    surface = dice_surface(gate, drawn, histograms.positive, areas)
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
    """Give the threshold of each level, and the [N,T] Dice of every image drawn at it."""
    thresholds = [threshold_of(level) for level in levels]
    rules = [replace(rule, threshold=threshold) for threshold in thresholds]
    return thresholds, dice_if_drawn(histograms, rules)
