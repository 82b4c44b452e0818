"""Figures drawn with matplotlib."""

from pathlib import Path

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utils.files import atomic
from utils.metric import Histograms, level_of, threshold_of
from utils.threshold import SEARCH_AREAS, SEARCH_LEVELS, PostProcess, dice_surface

_ALL, _POSITIVE, _CHOSEN, _BASELINE = "#30638e", "#3b9c6f", "#d1495b", "#777777"


def draw_threshold(histograms: Histograms, rule: PostProcess, path: Path) -> np.ndarray:
    """Draw how Dice depends on the thresholds, with the chosen point marked, and write a png.

    Left, Dice over the threshold behind the chosen gate, for all images and for positives. Right, a
    heat map over threshold and minimum area behind the chosen top threshold.

    Returns:
        The picture, [H,W,3] uint8 RGB.
    """
    figure = Figure(figsize=(11, 4.2), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    gate = histograms.areas()[:, level_of(rule.top_threshold)]
    _draw_curves(left, histograms, gate, rule)
    _draw_heat_map(right, histograms, gate, rule)
    with atomic(path) as temporary:
        figure.savefig(temporary)
        return cv2.cvtColor(cv2.imread(str(temporary)), cv2.COLOR_BGR2RGB)


def _draw_curves(axes: Axes, histograms: Histograms, gate: np.ndarray, rule: PostProcess) -> None:
    positive, area = histograms.positive, np.array([rule.min_area])
    for chosen, colour, name in (
        (np.ones_like(positive), _ALL, "all images"),
        (positive, _POSITIVE, "images with a mask"),
    ):
        dice = dice_surface(gate[chosen], histograms.dice()[chosen], positive[chosen], area)[0]
        axes.plot(np.linspace(0, 1, dice.size), dice, color=colour, label=name)
    axes.axhline(
        (~positive).mean(), color=_BASELINE, linestyle="--", label="every image left empty"
    )
    axes.axvline(rule.threshold, color=_CHOSEN, label=f"chosen: {rule.threshold:.3f}")
    axes.set(xlabel="threshold", ylabel="mean Dice", xlim=(0, 1), ylim=(0, 1))
    axes.set_title(f"at least {rule.min_area} pixels above {rule.top_threshold:.3f}")
    axes.legend(frameon=False)


def _draw_heat_map(axes: Axes, histograms: Histograms, gate: np.ndarray, rule: PostProcess) -> None:
    levels, areas = list(SEARCH_LEVELS), np.array(SEARCH_AREAS)
    surface = dice_surface(gate, histograms.dice()[:, levels], histograms.positive, areas)
    thresholds = [threshold_of(level) for level in levels]
    mesh = axes.pcolormesh(thresholds, np.arange(len(areas)), surface, shading="nearest")
    axes.figure.colorbar(mesh, ax=axes, label="mean Dice")
    ticks = np.arange(0, len(areas), 5)
    axes.set_yticks(ticks, [f"{areas[i]:,}" for i in ticks])
    row = np.searchsorted(areas, rule.min_area)
    axes.plot(rule.threshold, row, "o", color=_CHOSEN, markersize=9, markeredgecolor="white")
    axes.set(xlabel="threshold", ylabel=f"minimum area, pixels above {rule.top_threshold:.3f}")
    axes.set_title("mean Dice over threshold and minimum area")
