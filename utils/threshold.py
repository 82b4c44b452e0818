"""From probabilities to masks, and the choice of the thresholds that do it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from utils.errors import InputError
from utils.limits import SETTINGS_BYTES, read_bytes
from utils.metric import LEVELS, Histograms, level_of, threshold_of

THRESHOLDS = tuple(percent / 100 for percent in range(5, 100, 5))
MIN_AREAS = (0, 256, 512, 1024, 2048, 4096, 8192)
SEARCH_LEVELS = tuple(range(3, LEVELS - 1, 4))
"""63 levels, from a probability of 0.012 to one of 0.984."""
SEARCH_AREAS = (0, *np.geomspace(64, 65536, 31).round().astype(int).tolist())
"""Pixels; the real masks have 55 to 161,421."""
_DECIMALS = 12


@dataclass(frozen=True)
class PostProcess:
    """The rule that turns probabilities into a mask.

    An image is left empty where fewer than `min_area` pixels exceed `top_threshold`; otherwise its
    mask is every pixel above `threshold`.
    Source: the competition's winning solution (github.com/sneddy/pneumothorax-segmentation).

    Attributes:
        threshold: probability from 0 to 1; at 1 no pixel is above it.
        min_area: pixels of the image at its original size.
        top_threshold: probability from 0 to 1; equal to `threshold` for the ordinary pair.
    """

    threshold: float
    min_area: int
    top_threshold: float

    def mask(self, levels: np.ndarray) -> np.ndarray:
        """Turn a map into a mask at its image's original size.

        Args:
            levels: [H,W] uint8, level floor(255 p).

        Returns:
            [H,W] uint8 mask of 0 and 1.
        """
        if np.count_nonzero(levels > level_of(self.top_threshold)) < self.min_area:
            return np.zeros(levels.shape, dtype=np.uint8)
        return self.cut(levels)

    def cut(self, levels: np.ndarray) -> np.ndarray:
        """Return every pixel above `threshold`, whatever their area; [H,W] uint8 of 0 and 1."""
        return (levels > level_of(self.threshold)).astype(np.uint8)

    def areas(self, histograms: Histograms) -> np.ndarray:
        """[N] int64: the area of each image's mask in pixels."""
        areas = histograms.areas()
        kept = areas[:, level_of(self.top_threshold)] >= self.min_area
        return np.where(kept, areas[:, level_of(self.threshold)], 0)

    def dice(self, histograms: Histograms) -> np.ndarray:
        """[N] float64: the Dice of each image."""
        kept = histograms.areas()[:, level_of(self.top_threshold)] >= self.min_area
        return np.where(
            kept, histograms.dice()[:, level_of(self.threshold)], ~histograms.positive
        ).astype(float)


LEAVE_EMPTY = PostProcess(threshold=1.0, min_area=0, top_threshold=1.0)
"""The rule that predicts nothing."""


def load_rule(path: str | Path) -> PostProcess:
    """Read the rule of a threshold.json.

    Raises:
        InputError: the file is missing, is too large, is not JSON, or lacks a part of the rule.
    """
    try:
        content = json.loads(read_bytes(path, SETTINGS_BYTES))
        return PostProcess(**{name: content[name] for name in PostProcess.__annotations__})
    except FileNotFoundError as error:
        raise InputError(
            f"looked for the thresholds in {path}; make it with "
            "python main.py --mode choose_threshold --run_name RUN, or give thresholds by flags"
        ) from error
    # RecursionError: thousands of brackets.
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as thresholds: {error!r}") from error


@dataclass(frozen=True)
class Scores:
    """What a rule reaches on a set of images.

    Attributes:
        dice: mean Dice over all images.
        dice_positive: mean Dice over the images with a mask; NaN where there are none.
        empty_kept: share of the empty images that are left empty; NaN where there are none.
        predicted: number of images given a mask.
        baseline: mean Dice of leaving every image empty, which is the share of empty images.
    """

    dice: float
    dice_positive: float
    empty_kept: float
    predicted: int
    baseline: float

    def as_dict(self) -> dict[str, float | int]:
        """Return the scores by name."""
        return asdict(self)


def score(histograms: Histograms, rule: PostProcess) -> Scores:
    """Measure what `rule` reaches."""
    return score_images(rule.dice(histograms), rule.areas(histograms) > 0, histograms.positive)


def score_images(dice: np.ndarray, predicted: np.ndarray, positive: np.ndarray) -> Scores:
    """Sum up images.

    Args:
        dice: [N] Dice of each image.
        predicted: [N] bool, the image was given a mask.
        positive: [N] bool, the true mask has a pixel.
    """
    return Scores(
        dice=float(dice.mean()),
        dice_positive=_mean(dice[positive]),
        empty_kept=_mean(~predicted[~positive]),
        predicted=int(predicted.sum()),
        baseline=float((~positive).mean()),
    )


def dice_surface(
    gate: np.ndarray, dice: np.ndarray, positive: np.ndarray, min_areas: np.ndarray
) -> np.ndarray:
    """Mean Dice for every minimum area and threshold behind one gate.

    Args:
        gate: [N] pixels of each image above the top threshold.
        dice: [N,T] Dice of each image at each threshold, if it passes the gate.
        positive: [N] bool, the true mask has a pixel.
        min_areas: [A] pixels.

    Returns:
        [A,T] float64, rounded to 12 decimals so that equal scores compare equal.
    """
    if_empty = (~positive).astype(float)
    from_largest = np.argsort(-gate, kind="stable")
    # Images pass the gate from the largest area down, so a prefix sum holds every minimum area.
    gain = np.cumsum((dice - if_empty[:, None])[from_largest], axis=0)
    gain = np.concatenate((np.zeros((1, dice.shape[1])), gain))
    passing = len(gate) - np.searchsorted(np.sort(gate), min_areas, side="left")
    return np.round((if_empty.sum() + gain[passing]) / len(gate), _DECIMALS)


def best_pair(histograms: Histograms) -> PostProcess:
    """Choose (threshold, min_area) on a small grid, for ranking the epochs of a stage.

    The grid holds the rule that leaves every image empty, so the best is never below that baseline.
    Ties go to the threshold nearest 0.5, then to the smaller area.
    """
    areas, dice, positive = histograms.areas(), histograms.dice(), histograms.positive
    best, best_dice = LEAVE_EMPTY, round(float((~positive).mean()), _DECIMALS)
    for threshold in sorted(THRESHOLDS, key=lambda t: (abs(t - 0.5), t)):
        level = level_of(threshold)
        surface = dice_surface(areas[:, level], dice[:, [level]], positive, np.array(MIN_AREAS))
        if surface.max() > best_dice:
            best_dice = surface.max()
            best = PostProcess(threshold, MIN_AREAS[surface.argmax()], threshold)
    return best


def best_triplet(
    histograms: Histograms,
    levels: tuple[int, ...] = SEARCH_LEVELS,
    min_areas: tuple[int, ...] = SEARCH_AREAS,
) -> PostProcess:
    """Choose (top_threshold, min_area, threshold) by Dice over every combination.

    Leaving every image empty is one of the rules. Ties go to the top threshold nearest 0.5, then to
    the smaller area, then to the threshold nearest 0.5.

    Args:
        histograms: the images to choose on.
        levels: levels that both thresholds are taken from.
        min_areas: pixels, ascending.
    """
    from_middle = sorted(levels, key=lambda level: (abs(2 * level - LEVELS + 1), level))
    areas, positive = histograms.areas(), histograms.positive
    dice = histograms.dice()[:, from_middle]
    best, best_dice = LEAVE_EMPTY, round(float((~positive).mean()), _DECIMALS)
    for top_level in from_middle:
        surface = dice_surface(areas[:, top_level], dice, positive, np.array(min_areas))
        if surface.max() > best_dice:
            best_dice = surface.max()
            area, threshold = np.unravel_index(surface.argmax(), surface.shape)
            best = PostProcess(
                threshold=threshold_of(from_middle[threshold]),
                min_area=min_areas[area],
                top_threshold=threshold_of(top_level),
            )
    return best


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")
