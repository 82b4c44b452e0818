"""Calibration: how often what was predicted with some probability is true."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from utils.evaluation.bootstrap import bootstrap_interval, bootstrap_ratio

BINS = 10


@dataclass(frozen=True)
class CalibrationBin:
    """Images or pixels of similar probability.

    Attributes:
        count: number of them.
        predicted: their mean probability.
        observed: the share of them that is positive.
        low: lower end of the 95 % interval of `observed`, over patients.
        high: upper end of it.
    """

    count: int
    predicted: float
    observed: float
    low: float
    high: float


def calibrate_images(
    probability: np.ndarray, positive: np.ndarray, groups: Sequence[str] | np.ndarray
) -> list[CalibrationBin]:
    """Calibrate the probability of images, in bins of about as many images each.

    Args:
        probability: [N] float, from 0 to 1.
        positive: [N] bool, the true mask is not empty.
        groups: [N] patient of each image; an image with an empty name is its own patient.

    Returns:
        At most `BINS` bins by ascending probability; equal probabilities share one.
    """
    edges = np.unique(np.quantile(probability, np.arange(1, BINS) / BINS))
    bin_of, groups, bins = np.searchsorted(edges, probability, "right"), np.asarray(groups), []
    for number in np.unique(bin_of):
        inside = bin_of == number
        hits = positive[inside].astype(float)
        interval = bootstrap_interval(hits, groups[inside])
        mean = float(probability[inside].mean())
        bins.append(CalibrationBin(len(hits), mean, float(hits.mean()), *interval))
    return bins


def calibrate_pixels(
    counts: np.ndarray, mask_counts: np.ndarray, groups: Sequence[str] | np.ndarray
) -> list[CalibrationBin]:
    """Calibrate the probability of pixels, in bins of equal width.

    Args:
        counts: [N,L] int, pixels of each image at each of L levels of probability.
        mask_counts: [N,L] int, those of them inside the true mask.
        groups: [N] patient of each image; an image with an empty name is its own patient.

    Returns:
        At most `BINS` bins by ascending probability, without those that have no pixel.
    """
    levels = counts.shape[1]
    # Level k holds the probabilities from k to k + 1 of L - 1 steps, and the last one only 1.
    middle = np.minimum((np.arange(levels) + 0.5) / (levels - 1), 1)
    bins = []
    for columns in np.array_split(np.arange(levels), BINS):
        pixels, inside = counts[:, columns].sum(axis=1), mask_counts[:, columns].sum(axis=1)
        total = int(pixels.sum())
        if total:
            mean = float(counts[:, columns].sum(axis=0) @ middle[columns] / total)
            interval = bootstrap_ratio(inside.astype(float), pixels.astype(float), groups)
            bins.append(CalibrationBin(total, mean, float(inside.sum() / total), *interval))
    return bins


def calibration_error(bins: Sequence[CalibrationBin]) -> float:
    """Return the mean distance of predicted and observed, weighted by count."""
    counts = np.array([part.count for part in bins], float)
    distances = [abs(part.observed - part.predicted) for part in bins]
    return float(counts @ distances / counts.sum()) if len(bins) else float("nan")
