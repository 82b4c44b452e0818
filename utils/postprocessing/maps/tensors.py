"""Probability maps as tensors, on any device: to their original size, to levels, to counts."""

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.postprocessing.histograms import LEVELS


def to_levels(probabilities: Tensor) -> Tensor:
    """Quantise probabilities, float of any shape -> uint8 level floor(255 p) of the same shape."""
    return (probabilities.float() * (LEVELS - 1)).to(torch.uint8)


def resize_probability(probability: Tensor, height: int, width: int) -> Tensor:
    """Resize one map to its image's original size, float [h,w] -> float32 [height,width]."""
    resized = F.interpolate(
        probability.float()[None, None], (height, width), mode="bilinear", align_corners=False
    )
    return resized[0, 0]


def count_levels(levels: Tensor, mask: Tensor) -> Tensor:
    """Count the pixels of one image at every level.

    Args:
        levels: [H,W] uint8.
        mask: [H,W] uint8 of 0 and 1, the truth.

    Returns:
        [2,256] int32: the counts over all pixels, and those over the pixels of the mask.
    """
    # One bincount for both: pixels of the mask go into the second 256 bins.
    bins = levels.to(torch.int16) + LEVELS * mask.to(torch.int16)
    outside_inside = torch.bincount(bins.flatten(), minlength=2 * LEVELS).view(2, LEVELS)
    return torch.stack((outside_inside.sum(0), outside_inside[1])).to(torch.int32)
