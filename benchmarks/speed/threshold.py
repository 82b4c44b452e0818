"""Speed of the threshold search, against a pass over all predictions per threshold."""

import cv2
import numpy as np
import torch

from benchmarks.speed.compare import Ratio, in_turns
from benchmarks.speed.data import Data
from datasets.formats.masks import read_mask
from utils.postprocessing.histograms import Histograms
from utils.postprocessing.maps.tensors import count_levels, to_levels
from utils.postprocessing.search import THRESHOLDS, best_rule

_IMAGES = 24


def measure(data: Data) -> Ratio:
    """Compare searches per second, from probability maps at the images' original sizes.

    Ours counts every map once and tries 127,008 rules of (top_threshold, min_area, threshold). The
    baseline tries 19 thresholds like the original, with a pass over all maps for each.
    """
    samples = list(data.samples.values())[:_IMAGES]
    masks = [torch.from_numpy(read_mask(sample.mask)) for sample in samples]
    maps = [_predict(mask, seed) for seed, mask in enumerate(masks)]
    pairs = list(zip(maps, masks, strict=True))
    ids = np.array([sample.id for sample in samples])
    height, width = np.array([mask.shape for mask in masks]).T

    def ours() -> int:
        counts = np.stack([count_levels(to_levels(p), mask) for p, mask in pairs])
        best_rule(Histograms(ids, height, width, counts[:, 0], counts[:, 1]))
        return 1

    def pass_per_threshold() -> int:
        scores = [np.mean([_dice(p > t, mask > 0) for p, mask in pairs]) for t in THRESHOLDS]
        assert len(scores) == 19
        return 1

    return in_turns("threshold_search", ours, pass_per_threshold, "searches/s")


def _predict(mask: torch.Tensor, seed: int) -> torch.Tensor:
    """Simulate the prediction of a mask: [H,W] float32 between 0 and 1, uncertain at its edge."""
    noise = np.random.default_rng(seed).uniform(0, 0.3, mask.shape).astype(np.float32)
    return torch.from_numpy(cv2.GaussianBlur(mask.numpy() * np.float32(0.7) + noise, (0, 0), 8))


def _dice(predicted: torch.Tensor, mask: torch.Tensor) -> float:
    total = predicted.sum() + mask.sum()
    return 1.0 if total == 0 else (2 * (predicted & mask).sum() / total).item()
