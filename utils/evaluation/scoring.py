"""Kaggle's score of a submission against the truth, and what stands behind it.

Dice of an image is 2|A and B| / (|A| + |B|), and 1 when both are empty; the score is the mean over
images. Source: the SIIM-ACR Pneumothorax Segmentation evaluation page.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.formats.annotations import Row, annotated_mask, read_annotations
from utils.errors import InputError
from utils.evaluation.bootstrap import interval

SIZES = (2048, 8192, 32768)
"""Areas of true masks, in pixels, that part small from large."""


@dataclass(frozen=True)
class Pairs:
    """The rows of a submission and of the truth; masks are decoded one image at a time.

    Attributes:
        submission: csv of the predicted masks.
        truth: csv of the true masks.
        predicted: the one row of each image, in the order of the submission.
        true: all rows of each annotated image, those of the submission and others.
    """

    submission: Path
    truth: Path
    predicted: dict[str, Row]
    true: dict[str, list[Row]]

    @property
    def ids(self) -> list[str]:
        """The images that are scored: those of the submission."""
        return list(self.predicted)

    @property
    def left_out(self) -> int:
        """Number of annotated images that the submission lacks."""
        return len(self.true) - len(self.predicted)

    def masks(self, name: str, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Decode both masks of an image.

        Args:
            name: image id.
            size: height and width in pixels.

        Returns:
            The true and the predicted mask, [H,W] uint8 of 0 and 1.

        Raises:
            InputError: a row cannot be decoded at this size; file and row are named.
        """
        truth = annotated_mask(self.true[name], *size, self.truth)
        return truth, annotated_mask([self.predicted[name]], *size, self.submission)


@dataclass(frozen=True)
class Counts:
    """Pixels of the true mask, of the predicted mask and of both at once.

    Attributes:
        ids: [N] image ids.
        truth: [N] int64.
        predicted: [N] int64.
        both: [N] int64.
    """

    ids: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray
    both: np.ndarray

    @property
    def positive(self) -> np.ndarray:
        """[N] bool: the true mask has a pixel."""
        return self.truth > 0

    @property
    def dice(self) -> np.ndarray:
        """[N] float64: Dice of each image."""
        total = self.truth + self.predicted
        return np.where(total == 0, 1.0, 2 * self.both / np.maximum(total, 1))

    def worst(self, count: int) -> np.ndarray:
        """Return the places of the lowest Dice; ties by the larger true mask, then by id."""
        return np.lexsort((self.ids, -self.truth, self.dice))[:count]


@dataclass(frozen=True)
class Estimate:
    """A mean over images and its 95 % bootstrap interval; NaN where there are no images."""

    images: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Bucket:
    """Dice on the images whose true mask has from `first` to `last` pixels (None: no limit)."""

    first: int
    last: int | None
    dice: Estimate


@dataclass(frozen=True)
class Summary:
    """What a submission reaches.

    Attributes:
        dice: Kaggle's score.
        baseline: Dice of leaving every image empty, which is the share of empty images.
        dice_positive: Dice on the images with a true mask.
        by_size: the same, by the size of the true mask.
        empty_kept: share of the empty images left empty: the specificity of "has a mask".
        positive_found: share of the positives given a mask, right or wrong: its sensitivity.
        predicted: number of images given a mask.
    """

    dice: Estimate
    baseline: float
    dice_positive: Estimate
    by_size: tuple[Bucket, ...]
    empty_kept: Estimate
    positive_found: Estimate
    predicted: int


def read_pairs(submission: Path, truth: Path) -> Pairs:
    """Read a submission and the truth of its images.

    Raises:
        InputError: a file is missing or is not a csv of masks, the submission repeats an image,
            or has one that the truth does not know.
    """
    rows, true = _read(submission, "--submission"), _read(truth, "--truth")
    for name, several in rows.items():
        if len(several) > 1:
            raise InputError(
                f"{submission} rows {several[0].number} and {several[1].number}: both are "
                f"{name}; a submission has one row per image"
            )
    unknown = [name for name in rows if name not in true]
    if unknown:
        raise InputError(
            f"{submission} row {rows[unknown[0]][0].number}: {unknown[0]} is not in {truth}, "
            f"as {len(unknown)} of the {len(rows)} images are not"
        )
    return Pairs(submission, truth, {name: row[0] for name, row in rows.items()}, true)


def count(pairs: Pairs, sizes: Iterable[tuple[str, tuple[int, int]]]) -> Counts:
    """Count the pixels of every image.

    Args:
        pairs: what to decode.
        sizes: image id, and its height and width in pixels, of every image to count.

    Raises:
        InputError: a row cannot be decoded; file and row are named.
    """
    ids, areas = [], []
    for name, size in sizes:
        truth, predicted = (mask.view(bool) for mask in pairs.masks(name, size))
        ids.append(name)
        areas.append([np.count_nonzero(mask) for mask in (truth, predicted, truth & predicted)])
    return Counts(np.array(ids), *np.array(areas, dtype=np.int64).T)


def estimate(values: np.ndarray, groups: np.ndarray) -> Estimate:
    """Take the mean of [N] values and its interval over [N] groups (patients, or images)."""
    mean = float(values.mean()) if values.size else float("nan")
    return Estimate(len(values), mean, *interval(values, groups))


def summarise(counts: Counts, groups: np.ndarray) -> Summary:
    """Work out all scores of a submission; `groups` is the [N] patient of each image."""
    dice, positive, has_mask = counts.dice, counts.positive, counts.predicted > 0

    def over(chosen: np.ndarray, values: np.ndarray) -> Estimate:
        return estimate(values[chosen].astype(float), groups[chosen])

    buckets = []
    for first, last in zip((1, *(size + 1 for size in SIZES)), (*SIZES, None), strict=True):
        fits = (counts.truth >= first) & (counts.truth <= (last or counts.truth.max()))
        buckets.append(Bucket(first, last, over(fits, dice)))
    return Summary(
        dice=estimate(dice, groups),
        baseline=float((~positive).mean()),
        dice_positive=over(positive, dice),
        by_size=tuple(buckets),
        empty_kept=over(~positive, ~has_mask),
        positive_found=over(positive, has_mask),
        predicted=int(has_mask.sum()),
    )


def _read(path: Path, flag: str) -> dict[str, list[Row]]:
    if not path.is_file():
        raise InputError(f"{path}: is not a file; {flag} names a csv of masks")
    return read_annotations(path)
