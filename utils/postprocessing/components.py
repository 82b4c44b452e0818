"""The connected components of a map at a few thresholds, and which of them a rule keeps.

A component is a set of pixels above a level that touch at a side or a corner. Source of the
filters: write-ups of the SIIM-ACR competition, whose winner dropped contours of at most 100 pixels
and whose 19th dropped components of a low mean probability.
"""

import cv2
import numpy as np

COMPONENT_LEVELS = (15, 27, 39, 51, 63, 75, 103, 127, 151, 179, 191, 203, 231)
"""From a probability of 0.06 to one of 0.91; the search tries each without a filter as well."""
COMPONENT_COLUMNS = ("image", "level", "area", "total", "inside")
"""Of a table of components: the image's place, the level that was cut above, pixels, the sum of
levels over them, and how many of them lie in the true mask."""
MAX_COMPONENTS = 4096
"""Components of an image at all levels; more is noise, and would fill memory. Trained networks give
some tens."""


def find_components(levels: np.ndarray, mask: np.ndarray) -> np.ndarray | None:
    """Measure the components of one image above each of `COMPONENT_LEVELS`.

    Args:
        levels: [H,W] uint8, level floor(255 p).
        mask: [H,W] uint8 of 0 and 1, the truth.

    Returns:
        [C,4] int64, `COMPONENT_COLUMNS` without the image; None if there are more than
        `MAX_COMPONENTS`.
    """
    largest = levels.max(initial=0)
    found = np.empty((0, len(COMPONENT_COLUMNS) - 1), np.int64)
    for level in (level for level in COMPONENT_LEVELS if level < largest):
        cut = (levels > level).astype(np.uint8)
        # Most of an X-ray is below the level; labelling takes as long as its pixels are many.
        left, top, width, height = cv2.boundingRect(cut)
        box = np.s_[top : top + height, left : left + width]
        labels, areas, totals = _label(cut[box], levels[box])
        inside = np.bincount(labels[mask[box] > 0], minlength=len(areas) + 1)[1:]
        rows = np.stack((np.full(len(areas), level), areas, totals, inside), axis=1)
        if len(found) + len(rows) > MAX_COMPONENTS:
            return None
        found = np.concatenate((found, rows))
    return found


def drop_components(
    mask: np.ndarray, levels: np.ndarray, min_area: int, min_mean: float
) -> np.ndarray:
    """Clear the components of a mask that a filter does not keep.

    Args:
        mask: [H,W] uint8 of 0 and 1.
        levels: [H,W] uint8, the map it was cut from.
        min_area: pixels that a component has at least.
        min_mean: probability that it has at least in the mean.

    Returns:
        [H,W] uint8 of 0 and 1.
    """
    labels, areas, totals = _label(mask, levels)
    kept = np.concatenate(([False], keeps(areas, totals, min_area, min_mean)))
    return kept[labels].astype(np.uint8)


def keeps(areas: np.ndarray, totals: np.ndarray, min_area: int, min_mean: float) -> np.ndarray:
    """Say which components stay, from [C] pixels and [C] sums of levels; [C] bool."""
    return (areas >= min_area) & (totals >= min_mean * 255 * areas)


def sum_by_image(
    table: np.ndarray, images: int, level: int, min_area: int, min_mean: float
) -> tuple[np.ndarray, np.ndarray]:
    """Put the components that stay together again.

    Args:
        table: [C,5] int64 of `COMPONENT_COLUMNS`.
        images: number of images, N.
        level: one of `COMPONENT_LEVELS`.
        min_area: see `drop_components`.
        min_mean: likewise.

    Returns:
        [N] int64 pixels of each image's mask, and [N] int64 pixels of it in the true mask.
    """
    image, _, areas, totals, inside = table[table[:, 1] == level].T
    kept = keeps(areas, totals, min_area, min_mean)
    return _sum(image[kept], areas[kept], images), _sum(image[kept], inside[kept], images)


def check_components(table: np.ndarray, areas: np.ndarray, inside: np.ndarray) -> None:
    """Make sure that a table was measured on the maps that histograms were counted on.

    Args:
        table: to check.
        areas: [N,256] int64, pixels of each image above each level.
        inside: [N,256] int64, those of them in the true mask.

    Raises:
        ValueError: the form is another, or components do not add up to the histograms.
    """
    if table.ndim != 2 or table.shape[1] != len(COMPONENT_COLUMNS) or table.dtype.kind != "i":
        raise ValueError(
            f"components is {table.dtype} {table.shape}, not of (C, {len(COMPONENT_COLUMNS)})"
        )
    image, level, area, total, within = table.T
    if not (np.isin(level, COMPONENT_LEVELS) & (image >= 0) & (image < len(areas))).all():
        raise ValueError("components are of other images or levels")
    possible = (within >= 0) & (within <= area) & (area <= areas[image, level])
    if not (possible & (total > level * area) & (total <= 255 * area)).all():
        raise ValueError("a component is larger, or its levels are others, than is possible")
    for level in COMPONENT_LEVELS:
        area_sums, inside_sums = sum_by_image(table, len(areas), level, 0, 0.0)
        if (area_sums != areas[:, level]).any() or (inside_sums != inside[:, level]).any():
            raise ValueError(f"the components above level {level} do not add up")


def _label(cut: np.ndarray, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Number components from 1; give the [H,W] numbers, and pixels and sum of levels of each."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(cut, connectivity=8)
    above = cut > 0
    totals = np.bincount(labels[above], levels[above], minlength=count)[1:]
    return labels, stats[1:, cv2.CC_STAT_AREA].astype(np.int64), totals.astype(np.int64)


def _sum(image: np.ndarray, values: np.ndarray, images: int) -> np.ndarray:
    return np.bincount(image, values, minlength=images).astype(np.int64)
