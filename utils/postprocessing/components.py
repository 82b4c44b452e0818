"""Connected components of a probability map at several thresholds, and a filter on them.

A component is a set of pixels above a level that are connected through sides or corners. Source of
the filter: write-ups of the SIIM-ACR competition, whose winner dropped contours of at most 100
pixels and whose 19th place dropped components with a low mean probability.
"""

import cv2
import numpy as np

COMPONENT_LEVELS = (15, 27, 39, 51, 63, 75, 103, 127, 151, 179, 191, 203, 231)
"""Probabilities from 0.06 to 0.91; the search also tries each of them without a filter."""
COMPONENT_COLUMNS = ("image", "level", "area", "total", "inside")
"""Columns of a component table: index of the image, level above which the component lies, number of
its pixels, sum of their levels, number of them inside the true mask."""
MAX_COMPONENTS = 4096
"""Maximum per image over all levels. A trained network produces a few dozen; more is noise, and
would exhaust memory."""


def find_components(levels: np.ndarray, mask: np.ndarray) -> np.ndarray | None:
    """Measure the components of one image above each of `COMPONENT_LEVELS`.

    Args:
        levels: [H,W] uint8, level floor(255 p).
        mask: [H,W] uint8 of 0 and 1, the truth.

    Returns:
        [C,4] int64, `COMPONENT_COLUMNS` without the image; None if there are more than
        `MAX_COMPONENTS`.
    """
    highest = levels.max(initial=0)
    table = np.empty((0, len(COMPONENT_COLUMNS) - 1), np.int64)
    for level in (level for level in COMPONENT_LEVELS if level < highest):
        above = (levels > level).astype(np.uint8)
        # Most of an X-ray is below the level, and labelling time is proportional to the pixels.
        left, top, width, height = cv2.boundingRect(above)
        box = np.s_[top : top + height, left : left + width]
        labels, areas, totals = _label(above[box], levels[box])
        inside = np.bincount(labels[mask[box] > 0], minlength=len(areas) + 1)[1:]
        rows = np.stack((np.full(len(areas), level), areas, totals, inside), axis=1)
        if len(table) + len(rows) > MAX_COMPONENTS:
            return None
        table = np.concatenate((table, rows))
    return table


def drop_components(
    mask: np.ndarray, levels: np.ndarray, min_area: int, min_mean: float
) -> np.ndarray:
    """Clear the components of a mask that the filter rejects.

    Args:
        mask: [H,W] uint8 of 0 and 1.
        levels: [H,W] uint8, the probability map of the mask.
        min_area: minimum number of pixels of a component.
        min_mean: minimum mean probability of a component.

    Returns:
        [H,W] uint8 of 0 and 1.
    """
    labels, areas, totals = _label(mask, levels)
    # Label 0 is the background.
    kept = np.concatenate(([False], passes_filter(areas, totals, min_area, min_mean)))
    return kept[labels].astype(np.uint8)


def passes_filter(
    areas: np.ndarray, totals: np.ndarray, min_area: int, min_mean: float
) -> np.ndarray:
    """Return which components to keep, [C] bool, from [C] areas and [C] sums of levels."""
    return (areas >= min_area) & (totals >= min_mean * 255 * areas)


def filtered_areas(
    table: np.ndarray, images: int, level: int, min_area: int, min_mean: float
) -> tuple[np.ndarray, np.ndarray]:
    """Measure the mask of each image that remains after the filter.

    Args:
        table: [C,5] int64 of `COMPONENT_COLUMNS`.
        images: number of images, N.
        level: one of `COMPONENT_LEVELS`.
        min_area: minimum number of pixels of a component.
        min_mean: minimum mean probability of a component.

    Returns:
        [N] int64 pixels of the mask, and [N] int64 pixels of it inside the true mask.
    """
    image, _, areas, totals, inside = table[table[:, 1] == level].T
    kept = passes_filter(areas, totals, min_area, min_mean)
    return (
        _sum_by_image(image[kept], areas[kept], images),
        _sum_by_image(image[kept], inside[kept], images),
    )


def check_components(table: np.ndarray, areas: np.ndarray, inside: np.ndarray) -> None:
    """Check that a component table describes the same maps as the histograms.

    Args:
        table: the table to check.
        areas: [N,256] int64, pixels of each image above each level.
        inside: [N,256] int64, pixels of them inside the true mask.

    Raises:
        ValueError: shape or dtype is wrong, or components do not add up to the histograms.
    """
    if table.ndim != 2 or table.shape[1] != len(COMPONENT_COLUMNS) or table.dtype.kind != "i":
        raise ValueError(
            f"components is {table.dtype} {table.shape}, expected int (C, {len(COMPONENT_COLUMNS)})"
        )
    image, level, area, total, within = table.T
    if not (np.isin(level, COMPONENT_LEVELS) & (image >= 0) & (image < len(areas))).all():
        raise ValueError("components have an unknown image or level")
    possible = (within >= 0) & (within <= area) & (area <= areas[image, level])
    if not (possible & (total > level * area) & (total <= 255 * area)).all():
        raise ValueError("a component has an impossible area, sum of levels or overlap")
    for level in COMPONENT_LEVELS:
        area_sums, inside_sums = filtered_areas(table, len(areas), level, 0, 0.0)
        if (area_sums != areas[:, level]).any() or (inside_sums != inside[:, level]).any():
            raise ValueError(f"the components above level {level} do not add up to the histograms")


def _label(mask: np.ndarray, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Label components from 1; return [H,W] labels, [C] areas and [C] sums of levels."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    inside = mask > 0
    totals = np.bincount(labels[inside], levels[inside], minlength=count)[1:]
    return labels, stats[1:, cv2.CC_STAT_AREA].astype(np.int64), totals.astype(np.int64)


def _sum_by_image(image: np.ndarray, values: np.ndarray, images: int) -> np.ndarray:
    return np.bincount(image, values, minlength=images).astype(np.int64)
