"""How far the predictions can be trusted: ROC, calibration and Dice by size, for subgroups too."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from sklearn.metrics import roc_curve

from datasets.siim import MASK_SIZES
from utils.evaluation.calibration import (
    CalibrationBin,
    calibrate_images,
    calibrate_pixels,
    calibration_error,
)
from utils.evaluation.image_level import ImageLevelScores, score_image_level
from utils.evaluation.scoring import Estimate, mean_with_interval
from utils.evaluation.subgroups import Subgroup
from utils.report.axes import Plot, decade_axis, share_axis

FEWEST = 2
"""Images of each kind, positive and empty, without which a subgroup has no figures."""
_SQUARE = (360, 330)


class Outcome(NamedTuple):
    """How N images were predicted.

    Attributes:
        dice: [N] Dice of each image.
        predicted: [N] bool, a mask was predicted.
        probability: [N] float from 0 to 1, that the image has a mask.
        truth: [N] int, pixels of the true mask.
        counts: [N,256] int, pixels at each level of probability.
        mask_counts: [N,256] int, those of them inside the true mask.
        patients: [N] patient of each image; empty if unknown.
    """

    dice: np.ndarray
    predicted: np.ndarray
    probability: np.ndarray
    truth: np.ndarray
    counts: np.ndarray
    mask_counts: np.ndarray
    patients: np.ndarray

    @property
    def positive(self) -> np.ndarray:
        """[N] bool: the true mask is not empty."""
        return self.truth > 0

    def take(self, members: np.ndarray) -> "Outcome":
        """Return some of the images, [N] bool."""
        return Outcome(*(column[members] for column in self))


class GroupScores(NamedTuple):
    """The scores of the images of a group, each with its interval; `title` names the group."""

    title: str
    images: int
    positives: int
    baseline: float
    dice: Estimate
    dice_positive: Estimate
    specificity: Estimate
    sensitivity: Estimate
    auc: Estimate


class GroupFigures(NamedTuple):
    """The plots of the images of a group, by title."""

    title: str
    plots: list[tuple[str, str, Markup]]


def score_group(title: str, outcome: Outcome, ranked: ImageLevelScores) -> GroupScores:
    """Score a group, given its image-level scores."""
    positive, patients = outcome.positive, outcome.patients

    def over(subset: np.ndarray, values: np.ndarray) -> Estimate:
        return mean_with_interval(values[subset].astype(float), patients[subset])

    return GroupScores(
        title,
        len(positive),
        int(positive.sum()),
        float((~positive).mean()),
        over(np.ones_like(positive), outcome.dice),
        over(positive, outcome.dice),
        over(~positive, ~outcome.predicted),
        over(positive, outcome.predicted),
        ranked.auc,
    )


def examine(
    outcome: Outcome, subgroups: Sequence[Subgroup], has_presence: bool
) -> tuple[list[GroupScores], list[GroupFigures]]:
    """Score and plot all images, then every subgroup that has positives and empty images.

    Args:
        outcome: of all images.
        subgroups: of the same images.
        has_presence: whether the probability of an image is that of a presence head.
    """
    everything = Subgroup("all images", "", np.ones(len(outcome.dice), bool))
    scores, figures = [], []
    for group in (everything, *subgroups):
        part = outcome.take(group.members)
        title = f"{group.attribute}: {group.value}" if group.value else group.attribute
        ranked = score_image_level(part.probability, part.positive, part.patients)
        scores.append(score_group(title, part, ranked))
        if min(part.positive.sum(), (~part.positive).sum()) >= FEWEST:
            figures.append(GroupFigures(title, _draw(part, ranked, scores[-1], has_presence)))
    return scores, figures


def _draw(
    outcome: Outcome, ranked: ImageLevelScores, scores: GroupScores, has_presence: bool
) -> list[tuple[str, str, Markup]]:
    """Return title, caption and drawing of every plot."""
    images = calibrate_images(outcome.probability, outcome.positive, outcome.patients)
    pixels = calibrate_pixels(outcome.counts, outcome.mask_counts, outcome.patients)
    source = "presence head" if has_presence else "largest pixel probability"
    auc = scores.auc
    return [
        (
            "ROC",
            f"AUC {auc.mean:.4f} ({auc.low:.4f} to {auc.high:.4f}) of the {source}. The orange "
            "point is the rule itself; grey ones are a cut at 0.5 and the best cut, chosen here.",
            draw_roc(outcome.probability, outcome.positive, ranked, scores),
        ),
        (
            "Calibration of images",
            f"Bins of as many images each, by the {source}; mean distance to the diagonal "
            f"{calibration_error(images):.3f}.",
            draw_calibration(images, "images", "share with a mask"),
        ),
        (
            "Calibration of pixels",
            "Ten steps of probability, all pixels of all images; mean distance "
            f"{calibration_error(pixels):.4f}.",
            draw_calibration(pixels, "pixels", "share inside a mask"),
        ),
        (
            "Dice over size of the mask",
            "Every dot is a positive; bars are the means of a range of sizes, with intervals.",
            draw_sizes(outcome),
        ),
    ]


def draw_roc(
    probability: np.ndarray, positive: np.ndarray, ranked: ImageLevelScores, scores: GroupScores
) -> Markup:
    """Plot the ROC curve with three operating points and their intervals."""
    false_rate, true_rate, _ = roc_curve(positive, probability)
    plot = Plot("ROC curve", share_axis("1 - specificity"), share_axis("sensitivity"), *_SQUARE)
    plot.line([(0, 0), (1, 1)], "chance")
    plot.line([*zip(false_rate, true_rate, strict=True)], "main")
    points = [
        ("cut at 0.5", ranked.half.sensitivity, ranked.half.specificity, "second"),
        (
            f"cut at {ranked.best.threshold:.3f}, chosen here",
            ranked.best.sensitivity,
            ranked.best.specificity,
            "second",
        ),
        ("the rule", scores.sensitivity, scores.specificity, "chosen"),
    ]
    for name, found, kept, kind in points:
        x, y = 1 - kept.mean, found.mean
        plot.interval((x, found.low), (x, found.high), kind)
        plot.interval((1 - kept.high, y), (1 - kept.low, y), kind)
        plot.dots([(x, y)], kind, [f"{name}: sensitivity {y:.3f}, specificity {1 - x:.3f}"])
    return plot.svg()


def draw_calibration(bins: Sequence[CalibrationBin], unit: str, observed: str) -> Markup:
    """Plot what was observed over what was predicted, with intervals."""
    axes = share_axis("predicted probability"), share_axis(observed)
    plot = Plot(f"calibration of {unit}", *axes, *_SQUARE)
    plot.line([(0, 0), (1, 1)], "chance")
    plot.line([(part.predicted, part.observed) for part in bins], "main")
    for part in bins:
        x = part.predicted
        plot.interval((x, part.low), (x, part.high), "main")
        label = f"{part.count:,} {unit}: predicted {x:.3f}, observed {part.observed:.3f}"
        plot.dots([(x, part.observed)], "main", [label])
    return plot.svg()


def draw_sizes(outcome: Outcome) -> Markup:
    """Plot the Dice of each positive over the size of its mask, and the mean of each size."""
    truth, dice = outcome.truth[outcome.positive], outcome.dice[outcome.positive]
    patients = outcome.patients[outcome.positive]
    low, high = max(1, truth.min() * 0.8), truth.max() * 1.25
    x = decade_axis("pixels of the true mask", low, high)
    plot = Plot("Dice over size of the mask", x, share_axis("Dice"), *_SQUARE)
    plot.dots(zip(truth, dice, strict=True), "faint")
    for first, last in MASK_SIZES:
        inside = (truth >= first) & (truth <= (last or truth.max()))
        if inside.any():
            mean = mean_with_interval(dice[inside], patients[inside])
            left, right = max(first, low), min(last or high, high)
            middle = float(np.sqrt(left * right))
            plot.line([(left, mean.mean), (right, mean.mean)], "main")
            plot.interval((middle, mean.low), (middle, mean.high), "main")
            label = f"{mean.images} masks: {mean.mean:.3f} ({mean.low:.3f} to {mean.high:.3f})"
            plot.dots([(middle, mean.mean)], "main", [label])
    return plot.svg()
