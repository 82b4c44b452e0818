"""Two or more runs on the same images: paired differences with their intervals."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from utils.errors import InputError
from utils.evaluation.image_level import auc, auc_difference
from utils.evaluation.scoring import Estimate, mean_with_interval
from utils.report.evidence import Evidence


class Difference(NamedTuple):
    """A score of two runs on the same images; `gain` is the second minus the first."""

    score: str
    first: float
    second: float
    gain: Estimate

    @property
    def is_clear(self) -> bool:
        """Whether the interval of the gain excludes 0."""
        return bool(self.gain.low > 0 or self.gain.high < 0)


class Comparison(NamedTuple):
    """A run beside the first one.

    Attributes:
        first: name of the first run.
        second: name of the other run.
        images: number of images that both predicted.
        left_out: number of images that only one of them did.
        differences: the scores.
    """

    first: str
    second: str
    images: int
    left_out: int
    differences: list[Difference]


def compare(first: Evidence, second: Evidence) -> Comparison:
    """Compare two runs on the images that both predicted out of fold.

    Each is scored by its own rules, and the differences are bootstrapped over the patients that
    the first run knows.

    Raises:
        InputError: they share no image, or disagree about the truth of one.
    """
    places = [
        dict(zip(e.pooled.ids.tolist(), range(len(e.fold_of)), strict=True))
        for e in (first, second)
    ]
    shared = [name for name in places[0] if name in places[1]]
    if not shared:
        raise InputError(
            f"{first.folder} and {second.folder} have no image in common; compare runs on the same "
            "images"
        )
    a, b = (np.array([place[name] for name in shared]) for place in places)
    differs = first.pooled.mask[a].sum(axis=1) != second.pooled.mask[b].sum(axis=1)
    if differs.any():
        raise InputError(
            f"{first.folder} and {second.folder} have other true masks for {differs.sum():,} "
            f"images, the first is {shared[int(differs.argmax())]}; compare runs on the same masks"
        )
    left_out = len(places[0].keys() ^ places[1].keys())
    return Comparison(
        first.name, second.name, len(shared), left_out, _differences(first, second, a, b)
    )


def _differences(
    first: Evidence, second: Evidence, a: np.ndarray, b: np.ndarray
) -> list[Difference]:
    positive, patients = first.pooled.positive[a], first.patients[a]

    def mean(score: str, subset: np.ndarray, left: np.ndarray, right: np.ndarray) -> Difference:
        left, right = left[subset].astype(float), right[subset].astype(float)
        gain = mean_with_interval(right - left, patients[subset])
        return Difference(score, _mean(left), _mean(right), gain)

    dice = first.scores.dice[a], second.scores.dice[b]
    has_mask = first.scores.predicted[a], second.scores.predicted[b]
    ranked = first.probability[a], second.probability[b]
    once = np.ones(len(a))
    left, right = (auc(scores, positive, once) for scores in ranked)
    return [
        mean("Dice", np.ones_like(positive), *dice),
        mean("Dice on positives", positive, *dice),
        Difference(
            "Image-level AUC", left, right, auc_difference(*ranked[::-1], positive, patients)
        ),
        mean("Sensitivity", positive, *has_mask),
        mean("Specificity", ~positive, *(~values for values in has_mask)),
    ]


def _mean(values: Sequence[float] | np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
