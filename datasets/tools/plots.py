"""The overview plot of a data set."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utils.files import atomic_write

_BLUE, _GREEN, _RED = "#30638e", "#3b9c6f", "#d1495b"
_SIZES_SHOWN = 6


def draw_data(areas: np.ndarray, sizes: Sequence[tuple[int, int]], path: Path) -> None:
    """Draw an overview of a data set and write it as a png.

    Left: mask sizes. Middle: number of empty images and positives. Right: image sizes.

    Args:
        areas: [N] int64, size of each mask in pixels.
        sizes: height and width of each image in pixels.
        path: the png.
    """
    figure = Figure(figsize=(11, 4.2), dpi=110, layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(2.4, 1, 1.4))
    _draw_areas(left, areas[areas > 0])
    positive = int(np.count_nonzero(areas))
    _draw_counts(middle, {"empty": len(areas) - positive, "positive": positive}, len(areas))
    middle.set_title(f"{len(areas):,} images")
    common = Counter(f"{width} x {height}" for height, width in sizes).most_common()
    shown = dict(common[:_SIZES_SHOWN])
    others = sum(count for _, count in common[_SIZES_SHOWN:])
    _draw_counts(right, shown | ({"other": others} if others else {}), len(areas))
    right.set_title("width x height, pixels")
    with atomic_write(path) as temporary:
        figure.savefig(temporary)


def _draw_areas(axes: Axes, areas: np.ndarray) -> None:
    axes.set(xlabel="mask size in pixels", ylabel="images")
    axes.set_title("no positives")
    if areas.size:
        low, high = np.log10(areas.min()) - 0.01, np.log10(areas.max()) + 0.01
        axes.hist(areas, np.logspace(low, high, 41).tolist(), color=_GREEN)
        axes.axvline(np.median(areas), color=_RED, linestyle="--")
        axes.set_xscale("log")
        axes.set_title(f"mask sizes, median {np.median(areas):,.0f} px")


def _draw_counts(axes: Axes, counts: dict[str, int], total: int) -> None:
    bars = axes.bar(list(counts), list(counts.values()), color=_BLUE, width=0.6)
    texts = [f"{count:,}\n{count / max(total, 1):.1%}" for count in counts.values()]
    axes.bar_label(bars, texts, padding=2)
    axes.margins(y=0.15)
    axes.set_xlim(-0.7, max(len(counts), 2) - 0.3)
    axes.tick_params(axis="x", rotation=30 if len(counts) > 2 else 0)
