"""Synthetic predictions and their histograms, and pixel-by-pixel references for masks and Dice."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from utils.inference.out_of_fold import OutOfFoldRow, collect_histograms, measure_prediction
from utils.postprocessing.grid import Grid
from utils.postprocessing.histograms import Histograms
from utils.postprocessing.maps.tensors import count_levels
from utils.postprocessing.rule import PostProcess

Predicted = list[tuple[np.ndarray, np.ndarray]]

TOY = Grid(
    levels=(15, 63, 127, 203),
    min_areas=(0, 3, 9, 20),
    presence_thresholds=(0.0, 0.25, 0.5, 0.8),
    component_areas=(0, 2, 5),
    component_means=(0.0, 0.6, 0.85),
)
"""A grid whose rules a plain loop can try."""


def predicted(seed: int, count: int = 8, shape: tuple[int, int] = (5, 7)) -> Predicted:
    """Generate levels and true masks, [H,W] uint8: some masks empty, some full, many ties."""
    rng = np.random.default_rng(seed)
    pairs = []
    for i in range(count):
        mask = (rng.random(shape) < (0, 0.3, 0.6, 1)[i % 4]).astype(np.uint8)
        noise = rng.choice([0, 1, 64, 127, 128, 129, 204, 254, 255], shape)
        sure = np.where(mask, 230, 5)
        levels = np.where(rng.random(shape) < 0.4, noise, sure).astype(np.uint8)
        pairs.append((levels * (i != 4), mask))
    return pairs


def histograms_of(pairs: Predicted) -> Histograms:
    """Return the histograms of levels and masks; the ids are image0, image1 ..."""
    counts = [count_levels(*map(torch.from_numpy, pair)).numpy() for pair in pairs]
    height, width = np.array([mask.shape for _, mask in pairs], dtype=np.int32).T
    names = np.array([f"image{i}" for i in range(len(pairs))])
    return Histograms(names, height, width, *np.stack(counts, axis=1))


def make_images(count: int, seed: int, sharp: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Generate levels and true masks, [N,9,9] uint8; a third of the masks are empty."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((count, 9, 9), np.uint8)
    for i in range(count):
        if i % 3:
            top, left = rng.integers(0, 5, 2)
            masks[i, top : top + 4, left : left + 3] = 1
    noise = rng.integers(0, 256, masks.shape)
    levels = np.clip(sharp * 255 * masks + (1 - sharp) * noise, 0, 255).astype(np.uint8)
    levels[0, 0, :2] = (0, 255)
    return levels, masks


def make_rows(seed: int, gate: bool, presence: bool) -> tuple[list[tuple], list[OutOfFoldRow]]:
    """Generate levels, true masks and, on request, gate maps and presence, and measure them.

    Returns:
        (levels, mask, gate, presence, maximum) of each image, and the rows. The maximum lies half a
        level above the lowest probability of its level.
    """
    rng = np.random.default_rng(seed)
    given = []
    for (levels, mask), (gate_levels, _) in zip(
        predicted(seed, 9, (6, 8)), predicted(seed + 1, 9, (6, 8)), strict=True
    ):
        # With half of the pixels low, there are many components.
        levels = np.where(rng.random(levels.shape) < 0.5, levels, 3).astype(np.uint8)
        probability = float(np.float32(rng.choice([0.0, 0.2, 0.3, 0.6, 0.9, 1.0])))
        maximum = float(np.float32(min(1, ((gate_levels if gate else levels).max() + 0.5) / 255)))
        given.append(
            (
                levels,
                mask,
                gate_levels if gate else None,
                probability if presence else None,
                maximum,
            )
        )
    rows = [measure_prediction(f"image{i}", *parts) for i, parts in enumerate(given)]
    return given, rows


def measured(seed: int, gate: bool = False, presence: bool = False) -> Histograms:
    """Return the histograms of `make_rows`."""
    _, rows = make_rows(seed, gate, presence)
    return collect_histograms([row.id for row in rows], rows)


def blobs(seed: int, gate: bool, presence: bool, components: bool, images: int = 10) -> Histograms:
    """Generate blobs, half of them true, and specks; presence is a weak predictor of true blobs."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(images):
        true, levels, gate_levels = i % 2, *np.zeros((2, 8, 10), np.uint8)
        top, left = rng.integers(0, 2), rng.integers(0, 4)
        blob = np.s_[top : top + 4, left : left + rng.integers(2, 6)]
        mask = np.zeros_like(levels)
        mask[blob] = true
        for image in (levels, gate_levels):
            if true or rng.random() < 0.5:
                image[blob] = rng.choice([90, 140, 210, 220], mask[blob].shape)
            image[rng.random(mask.shape) < 0.05] = rng.choice([70, 140, 230])
            image[6:, 2 : 2 + rng.integers(0, 8)] = rng.choice([80, 100, 150])
        # Some are exactly at a threshold, which is not above it.
        head = rng.choice([0.25, 0.3, 0.5, 0.9] if true else [0.0, 0.25, 0.3, 0.5])
        parts = (gate_levels if gate else None, head if presence else None)
        rows.append(measure_prediction(f"image{i}", levels, mask, *parts))
    histograms = collect_histograms([row.id for row in rows], rows)
    return histograms if components else replace(histograms, components=None)


def take(histograms: Histograms, order: Sequence[int] | np.ndarray) -> Histograms:
    """Return some of the images, in another order."""
    order = np.array(order)
    arrays = histograms.arrays()
    table = arrays.pop("components", None)
    arrays = {name: array[order] for name, array in arrays.items()}
    if table is not None:
        place = np.full(len(histograms.ids), -1)
        place[order] = np.arange(len(order))
        image = place[table[:, 0]]
        arrays["components"] = np.column_stack((image, table[:, 1:]))[image >= 0]
    return Histograms(**arrays)


def slow_components(cut: np.ndarray) -> list[list[tuple[int, int]]]:
    """List the pixels of each component of a mask, by flood fill."""
    remaining = {pixel for pixel, value in np.ndenumerate(cut) if value}
    components = []
    while remaining:
        component = [remaining.pop()]
        for y, x in component:
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & remaining
            component += near
            remaining -= near
        components.append(component)
    return components


def slow_mask(
    levels: np.ndarray,
    rule: PostProcess,
    gate: np.ndarray | None = None,
    presence: float | None = None,
) -> np.ndarray:
    """Apply the definition of a rule, pixel by pixel."""
    mask = np.zeros(levels.shape, np.uint8)
    gate = levels if gate is None else gate
    above_top = sum(level > round(255 * rule.top_threshold) for level in gate.ravel().tolist())
    absent = presence is not None and 0 < rule.presence_threshold >= presence
    if above_top < rule.min_area or absent:
        return mask
    for component in slow_components(levels > round(255 * rule.threshold)):
        mean = sum(int(levels[pixel]) for pixel in component) / len(component) / 255
        if len(component) >= rule.min_component_area and mean >= rule.min_component_mean:
            for pixel in component:
                mask[pixel] = 1
    return mask


def slow_dice(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Compute Dice by counting the pixels of two masks one by one."""
    a, b = prediction.ravel().tolist(), truth.ravel().tolist()
    both = sum(1 for x, y in zip(a, b, strict=True) if x and y)
    size = sum(1 for x in a if x) + sum(1 for y in b if y)
    return 2 * both / size if size else 1.0
