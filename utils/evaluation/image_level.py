"""How well a probability of each image tells whether it has a mask at all."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from utils.csv_files import read_columns
from utils.errors import InputError
from utils.evaluation.bootstrap import DRAWS, number_groups
from utils.evaluation.scoring import Estimate, estimate

COLUMNS = ["ImageId", "probability", "area"]
HALF = 0.5


@dataclass(frozen=True)
class Cut:
    """Calling an image positive where its probability is at least `threshold`."""

    threshold: float
    sensitivity: Estimate
    specificity: Estimate


@dataclass(frozen=True)
class Detection:
    """Image-level results.

    Attributes:
        auc: area under the ROC curve; NaN where all images are positive, or none.
        half: at probability 0.5, a threshold that owes nothing to these images.
        best: at the threshold with the largest sensitivity + specificity (Youden 1950), the
            highest of several. It is chosen on these images and so a little kind to them.
    """

    auc: Estimate
    half: Cut
    best: Cut


def read_scores(path: Path, ids: list[str]) -> pd.DataFrame:
    """Read the csv of scores that predict.py writes.

    Args:
        path: csv with the columns ImageId, probability (0 to 1) and area (pixels).
        ids: the images of the submission.

    Returns:
        `probability` and `area`, float64, one row per image in the order of `ids`.

    Raises:
        InputError: the file cannot be read, lacks a column, has a value out of range, or has not
            exactly the images of the submission.
    """
    rows = read_columns(path, COLUMNS, "a csv of scores")
    table = pd.DataFrame(rows, columns=["row", *COLUMNS])
    for column, highest in (("probability", 1), ("area", np.inf)):
        values = pd.to_numeric(table[column], errors="coerce")
        bad = ~values.between(0, highest)
        if bad.any():
            _, row, value = table.loc[bad, ["row", column]].reset_index().iloc[0]
            raise InputError(f"{path} row {row}: {column} is {value!r}")
        table[column] = values.astype(float)
    _check_ids(path, table, ids)
    return table.set_index("ImageId").loc[ids, COLUMNS[1:]]


def detect(probability: np.ndarray, positive: np.ndarray, groups: np.ndarray) -> Detection:
    """Work out the image-level results.

    Args:
        probability: [N] float, from 0 to 1.
        positive: [N] bool, the true mask has a pixel.
        groups: [N] patient of each image.
    """
    return Detection(
        auc=auc_with_interval(probability, positive, groups),
        half=_cut(HALF, probability, positive, groups),
        best=_cut(_youden(probability, positive), probability, positive, groups),
    )


def auc(probability: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> float:
    """Area under the ROC curve: how often a positive outranks a negative, ties counting half.

    Args:
        probability: [N] float.
        positive: [N] bool.
        weights: [N] how many times each image counts.

    Returns:
        From 0 to 1; NaN where there are no positives or no negatives.
    """
    _, place = np.unique(probability, return_inverse=True)
    return _auc_of_places(place, positive, weights)


def auc_with_interval(
    scores: np.ndarray, positive: np.ndarray, groups: Sequence[str], seed: int = 0
) -> Estimate:
    """AUC with its 95 % interval, from draws of patients with replacement as in utils.bootstrap.

    Args:
        scores: [N] float, larger for images more likely to have a mask.
        positive: [N] bool, the true mask has a pixel.
        groups: [N] patient of each image; an empty text is a patient of its own.
        seed: decides the draws.
    """
    _, place = np.unique(scores, return_inverse=True)
    value = _auc_of_places(place, positive, np.ones(len(place)))
    if np.isnan(value):
        return Estimate(len(place), value, value, value)
    count, group_of = number_groups(groups)
    rng, equal = np.random.default_rng(seed), np.full(count, 1 / count)
    drawn = (rng.multinomial(count, equal)[group_of] for _ in range(DRAWS))
    values = [_auc_of_places(place, positive, weights) for weights in drawn]
    low, high = np.nanpercentile(values, (2.5, 97.5))
    return Estimate(len(place), value, float(low), float(high))


def _auc_of_places(place: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> float:
    positives = np.bincount(place, weights * positive)
    negatives = np.bincount(place, weights * ~positive)
    pairs = positives.sum() * negatives.sum()
    outranked = np.cumsum(negatives) - negatives / 2
    return float(positives @ outranked / pairs) if pairs else float("nan")


def _youden(probability: np.ndarray, positive: np.ndarray) -> float:
    thresholds = np.unique(probability)[::-1]
    inside, outside = np.sort(probability[positive]), np.sort(probability[~positive])
    found = 1 - np.searchsorted(inside, thresholds) / max(len(inside), 1)
    kept = np.searchsorted(outside, thresholds) / max(len(outside), 1)
    return float(thresholds[np.argmax(found + kept)])


def _cut(
    threshold: float, probability: np.ndarray, positive: np.ndarray, groups: np.ndarray
) -> Cut:
    right = ((probability >= threshold) == positive).astype(float)
    return Cut(
        threshold,
        sensitivity=estimate(right[positive], groups[positive]),
        specificity=estimate(right[~positive], groups[~positive]),
    )


def _check_ids(path: Path, table: pd.DataFrame, ids: list[str]) -> None:
    found = table["ImageId"]
    for row, name in table.loc[found.duplicated(), ["row", "ImageId"]].to_numpy()[:1]:
        raise InputError(f"{path} row {row}: {name} is repeated")
    for names, others, where in (
        (ids, found, "the submission only"),
        (found, ids, "the scores only"),
    ):
        others = set(others)
        lone = [name for name in names if name not in others]
        if lone:
            raise InputError(
                f"{path}: {lone[0]}, one of {len(lone)}, is in {where}; both must have the same "
                "images"
            )
