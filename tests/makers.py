"""Predictions made for tests, their histograms, and their Dice counted pixel by pixel."""

import numpy as np
import torch

from utils.metric import Histograms, count_levels

Predicted = list[tuple[np.ndarray, np.ndarray]]


def predicted(seed: int, count: int = 8, shape: tuple[int, int] = (5, 7)) -> Predicted:
    """Draw levels and true masks, [H,W] uint8 each: some masks empty, some full, ties frequent."""
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
    """Count levels and masks, the images being called image0, image1 ..."""
    counts = [count_levels(*map(torch.from_numpy, pair)).numpy() for pair in pairs]
    height, width = np.array([mask.shape for _, mask in pairs], dtype=np.int32).T
    names = np.array([f"image{i}" for i in range(len(pairs))])
    return Histograms(names, height, width, *np.stack(counts, axis=1))


def slow_dice(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Count the pixels of two masks one by one."""
    a, b = prediction.ravel().tolist(), truth.ravel().tolist()
    both = sum(1 for x, y in zip(a, b, strict=True) if x and y)
    size = sum(1 for x in a if x) + sum(1 for y in b if y)
    return 2 * both / size if size else 1.0
