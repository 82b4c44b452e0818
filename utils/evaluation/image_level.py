"""Image-level scores: how well the probability of an image predicts whether it has a mask."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.metrics import roc_curve

from utils.csv_files import read_columns
from utils.errors import InputError
from utils.evaluation.bootstrap import DRAWS, index_groups
from utils.evaluation.scoring import Estimate, mean_with_interval

SCORE_COLUMNS = ["ImageId", "probability", "area"]
FIXED_THRESHOLD = 0.5


@dataclass(frozen=True)
class OperatingPoint:
    """Sensitivity and specificity if probabilities from `threshold` up count as positive."""

    threshold: float
    sensitivity: Estimate
    specificity: Estimate


@dataclass(frozen=True)
class ImageLevelScores:
    """Image-level scores.

    Attributes:
        auc: area under the ROC curve; NaN if all or none of the images are positive.
        half: at probability 0.5, a threshold not chosen on these images.
        best: at the threshold with the largest sensitivity + specificity (Youden 1950). It is
            chosen on these images, so the scores are slightly optimistic.
    """

    auc: Estimate
    half: OperatingPoint
    best: OperatingPoint


def read_scores(path: Path, ids: list[str]) -> pd.DataFrame:
    """Read a scores.csv that predict.py wrote.

    Args:
        path: csv with the columns ImageId, probability (0 to 1) and area (pixels).
        ids: the images of the submission.

    Returns:
        `probability` and `area`, float64, one row per image in the order of `ids`.

    Raises:
        InputError: the file cannot be read, lacks a column, has a value out of range, or its images
            differ from those of the submission.
    """
    rows = read_columns(path, SCORE_COLUMNS, "a csv of scores")
    table = pd.DataFrame([(row, *values) for row, values in rows], columns=["row", *SCORE_COLUMNS])
    for column, highest in (("probability", 1), ("area", np.inf)):
        values = pd.to_numeric(table[column], errors="coerce")
        bad = ~values.between(0, highest)
        if bad.any():
            _, row, value = table.loc[bad, ["row", column]].reset_index().iloc[0]
            raise InputError(f"{path} row {row}: {column} is {value!r}")
        table[column] = values.astype(float)
    _check_ids(path, table, ids)
    return table.set_index("ImageId").loc[ids, SCORE_COLUMNS[1:]]


def score_image_level(
    probability: np.ndarray, positive: np.ndarray, groups: np.ndarray
) -> ImageLevelScores:
    """Compute the image-level scores.

    Args:
        probability: [N] float, from 0 to 1.
        positive: [N] bool, the true mask is not empty.
        groups: [N] patient of each image.
    """
    return ImageLevelScores(
        auc=auc_with_interval(probability, positive, groups),
        half=_operating_point(FIXED_THRESHOLD, probability, positive, groups),
        best=_operating_point(_youden(probability, positive), probability, positive, groups),
    )


def auc(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> float:
    """Area under the ROC curve: how often a positive outranks a negative, ties counting half.

    Args:
        scores: [N] float, higher for images more likely to have a mask.
        positive: [N] bool.
        weights: [N] number of times that each image counts.

    Returns:
        From 0 to 1; NaN without positives or without negatives.
    """
    _, rank = np.unique(scores, return_inverse=True)
    return _auc_of_ranks(rank, positive, weights)


def auc_with_interval(
    scores: np.ndarray, positive: np.ndarray, groups: Sequence[str] | np.ndarray, seed: int = 0
) -> Estimate:
    """AUC with its 95 % bootstrap interval over patients, see utils/evaluation/bootstrap.py.

    Args:
        scores: [N] float, higher for images more likely to have a mask.
        positive: [N] bool, the true mask is not empty.
        groups: [N] patient of each image; an image with an empty name is its own patient.
        seed: seed of the draws.
    """
    _, rank = np.unique(scores, return_inverse=True)
    value = _auc_of_ranks(rank, positive, np.ones(len(rank)))
    if np.isnan(value):
        return Estimate(len(rank), value, value, value)
    values = [_auc_of_ranks(rank, positive, drawn) for drawn in _draw_weights(groups, seed)]
    low, high = np.nanpercentile(values, (2.5, 97.5))
    return Estimate(len(rank), value, float(low), float(high))


def auc_difference(
    first: np.ndarray,
    second: np.ndarray,
    positive: np.ndarray,
    groups: Sequence[str] | np.ndarray,
    seed: int = 0,
) -> Estimate:
    """AUC of `first` minus that of `second` on the same images, both of the same draws.

    Args:
        first: [N] float, scores as for `auc_with_interval`.
        second: [N] float, scores of the same images.
        positive: [N] bool, the true mask is not empty.
        groups: [N] patient of each image; an image with an empty name is its own patient.
        seed: seed of the draws.
    """
    ranks = [np.unique(scores, return_inverse=True)[1] for scores in (first, second)]

    def difference(weights: np.ndarray) -> float:
        above, below = (_auc_of_ranks(rank, positive, weights) for rank in ranks)
        return above - below

    value = difference(np.ones(len(positive)))
    if np.isnan(value):
        return Estimate(len(positive), value, value, value)
    values = [difference(drawn) for drawn in _draw_weights(groups, seed)]
    low, high = np.nanpercentile(values, (2.5, 97.5))
    return Estimate(len(positive), value, float(low), float(high))


def _draw_weights(groups: Sequence[str] | np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each of the [N] images counts in every bootstrap draw."""
    count, group_of = index_groups(groups)
    rng, equal = np.random.default_rng(seed), np.full(count, 1 / count)
    for _ in range(DRAWS):
        yield rng.multinomial(count, equal)[group_of]


def _auc_of_ranks(rank: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> float:
    # scikit-learn sorts in every call: 2,000 bootstrap draws would take seconds instead of 0.05 s.
    positives = np.bincount(rank, weights * positive)
    negatives = np.bincount(rank, weights * ~positive)
    pairs = positives.sum() * negatives.sum()
    outranked = np.cumsum(negatives) - negatives / 2
    return float(positives @ outranked / pairs) if pairs else float("nan")


def _youden(probability: np.ndarray, positive: np.ndarray) -> float:
    """Return the threshold with the largest sensitivity + specificity; ties go to the highest."""
    with warnings.catch_warnings():
        # Without positives (or negatives) one rate is undefined; only the other one counts.
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        false_rate, true_rate, thresholds = roc_curve(
            positive, probability, drop_intermediate=False
        )
    gain = np.round(np.nan_to_num(true_rate) - np.nan_to_num(false_rate), 12)
    # The first point is at an infinite threshold, where no image is positive.
    return float(thresholds[1:][gain[1:].argmax()])


def _operating_point(
    threshold: float, probability: np.ndarray, positive: np.ndarray, groups: np.ndarray
) -> OperatingPoint:
    correct = ((probability >= threshold) == positive).astype(float)
    return OperatingPoint(
        threshold,
        sensitivity=mean_with_interval(correct[positive], groups[positive]),
        specificity=mean_with_interval(correct[~positive], groups[~positive]),
    )


def _check_ids(path: Path, table: pd.DataFrame, ids: list[str]) -> None:
    found = table["ImageId"]
    for row, name in table.loc[found.duplicated(), ["row", "ImageId"]].to_numpy()[:1]:
        raise InputError(f"{path} row {row}: {name} is repeated")
    for names, others, where in (
        (ids, found, "the submission only"),
        (found, ids, "the scores only"),
    ):
        known = set(others)
        unmatched = [name for name in names if name not in known]
        if unmatched:
            raise InputError(
                f"{path}: {len(unmatched)} images are in {where}, the first is {unmatched[0]}; both"
                " must have the same images"
            )
