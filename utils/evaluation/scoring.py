"""Kaggle's score of a submission against the truth, and the scores that explain it.

Dice of an image is 2|A and B| / (|A| + |B|), and 1 when both are empty; the score is the mean over
images. Source: the SIIM-ACR Pneumothorax Segmentation evaluation page.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datasets.annotations.kinds import NO_CHANGES, Annotation, Changes, RunLengths
from datasets.annotations.names import Named, files_by_id
from datasets.annotations.reading import CsvMasks, MaskFlags, MaskSource, open_masks
from datasets.formats.annotations import RleRow, read_annotations
from datasets.formats.ids import IdKind
from datasets.siim import MASK_SIZES
from utils.errors import InputError
from utils.evaluation.bootstrap import bootstrap_interval


def dice_score(predicted: np.ndarray, overlap: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Dice from the pixel counts of predicted masks, overlaps and true masks; float64."""
    total = predicted + truth
    return np.where(total == 0, 1.0, 2 * overlap / np.maximum(total, 1))


@dataclass(frozen=True)
class MaskPairs:
    """The masks of a submission and the true ones, which are drawn one image at a time.

    Attributes:
        submission: csv of the predicted masks.
        truth: csv or folders of the true masks.
        predicted: the row of each image, in the order of the submission.
        true: the annotation of each of these images.
        left_out: number of annotated images, or of mask files, that the truth has besides.
    """

    submission: Path
    truth: str
    predicted: dict[str, RleRow]
    true: Mapping[str, Annotation]
    left_out: int

    @property
    def ids(self) -> list[str]:
        """The images that are scored: those of the submission."""
        return list(self.predicted)

    def masks(self, name: str, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, Changes]:
        """Draw both masks of an image.

        Args:
            name: image id.
            size: height and width in pixels.

        Returns:
            The true and the predicted mask, [H,W] uint8 of 0 and 1, and what had to be done to the
            files of the true one.

        Raises:
            InputError: a mask cannot be drawn at this size; the message names its file, and row.
        """
        self.true[name].check(name, size)
        truth, changes = self.true[name].draw(*size)
        predicted, _ = RunLengths([self.predicted[name]], self.submission).draw(*size)
        return truth, predicted, changes


@dataclass(frozen=True)
class PixelCounts:
    """Pixel counts of the true mask, of the predicted mask and of their overlap.

    Attributes:
        ids: [N] image ids.
        truth: [N] int64.
        predicted: [N] int64.
        both: [N] int64, pixels in both masks.
        changes: what had to be done to the files of true masks.
    """

    ids: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray
    both: np.ndarray
    changes: Changes = NO_CHANGES

    @property
    def positive(self) -> np.ndarray:
        """[N] bool: the true mask is not empty."""
        return self.truth > 0

    @property
    def dice(self) -> np.ndarray:
        """[N] float64: Dice of each image."""
        return dice_score(self.predicted, self.both, self.truth)

    def worst(self, number: int) -> np.ndarray:
        """Return the indices of the lowest Dice; ties by the larger true mask, then by id."""
        return np.lexsort((self.ids, -self.truth, self.dice))[:number]


@dataclass(frozen=True)
class Estimate:
    """A mean over images and its 95 % bootstrap interval; NaN without images."""

    images: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Bucket:
    """Dice on the images whose true mask has `first` to `last` pixels (None: no limit)."""

    first: int
    last: int | None
    dice: Estimate


@dataclass(frozen=True)
class Summary:
    """The scores of a submission.

    Attributes:
        dice: Kaggle's score.
        baseline: Dice of predicting no mask anywhere, which is the share of empty images.
        dice_positive: Dice on positives.
        by_size: Dice on positives, by the size of the true mask.
        empty_kept: share of empty images without a predicted mask: image-level specificity.
        positive_found: share of positives with a predicted mask: image-level sensitivity.
        predicted: number of images with a predicted mask.
    """

    dice: Estimate
    baseline: float
    dice_positive: Estimate
    by_size: tuple[Bucket, ...]
    empty_kept: Estimate
    positive_found: Estimate
    predicted: int


def read_mask_pairs(
    submission: Path,
    truth: Sequence[Path],
    flags: MaskFlags,
    names: Mapping[str, Named] | None = None,
    images: Path | None = None,
    kind: IdKind = "uid",
) -> MaskPairs:
    """Read a submission and find the true masks of its images.

    Args:
        submission: csv of the predicted masks.
        truth: csv of the true masks, or folders of mask files.
        flags: how to read them.
        names: a table of the names that the files of images and masks have, if not their ids.
        images: folder of the images, which may be in that of the mask files.
        kind: how images get their ids; by path, mask files are named by theirs.

    Raises:
        InputError: a file is missing or is not a csv of masks, or the submission repeats an image
            or has one that the truth lacks.
    """
    rows = read_annotations(submission)
    source = open_masks(truth, flags, "--truth", images, kind)
    for name, several in rows.items():
        if len(several) > 1:
            raise InputError(
                f"{submission} rows {several[0].number} and {several[1].number}: both are "
                f"{name}; a submission has one row per image"
            )
    true, left_out = _true_masks(source, files_by_id(rows, names))
    unknown = [name for name in rows if name not in true]
    if unknown:
        number = rows[unknown[0]][0].number
        raise InputError(
            f"{submission} row {number}: {unknown[0]} is not in {source.label}; {len(unknown)} of "
            f"the {len(rows)} images are missing there"
            + ("" if true else f", which has {source.example()}")
        )
    predicted = {name: row[0] for name, row in rows.items()}
    return MaskPairs(submission, source.label, predicted, true, left_out)


def _true_masks(
    source: MaskSource, images: Mapping[str, list[Path]]
) -> tuple[dict[str, Annotation], int]:
    """Return the annotations of images, and how many others there are."""
    if isinstance(source, CsvMasks):
        known = {name: source.annotation(name) for name in images if name in source.rows}
        return dict(known), len(source.rows) - len(known)
    found = source.find(images, source.label)
    for reason in found.refused.values():
        raise InputError(reason)
    true = {name: mask for name, mask in found.annotations.items() if mask is not None}
    return true, found.unused


def count_pixels(pairs: MaskPairs, sizes: Iterable[tuple[str, tuple[int, int]]]) -> PixelCounts:
    """Count the pixels of every image.

    Args:
        pairs: the masks.
        sizes: id, and height and width in pixels, of every image to count.

    Raises:
        InputError: a row cannot be decoded; the message names file and row.
    """
    ids, areas, changes = [], [], []
    for name, size in sizes:
        *masks, change = pairs.masks(name, size)
        truth, predicted = (mask.view(bool) for mask in masks)
        ids.append(name)
        areas.append([np.count_nonzero(mask) for mask in (truth, predicted, truth & predicted)])
        changes.append(change)
    truth, predicted, both = np.array(areas, dtype=np.int64).T
    return PixelCounts(np.array(ids), truth, predicted, both, Changes.total(changes))


def mean_with_interval(values: np.ndarray, groups: np.ndarray) -> Estimate:
    """Return the mean of [N] values with its interval over [N] groups (patients, or images)."""
    mean = float(values.mean()) if values.size else float("nan")
    return Estimate(len(values), mean, *bootstrap_interval(values, groups))


def score_submission(counts: PixelCounts, groups: np.ndarray) -> Summary:
    """Compute all scores of a submission; `groups` is the [N] patient of each image."""
    dice, positive, has_mask = counts.dice, counts.positive, counts.predicted > 0

    def over(subset: np.ndarray, values: np.ndarray) -> Estimate:
        return mean_with_interval(values[subset].astype(float), groups[subset])

    buckets = []
    for first, last in MASK_SIZES:
        fits = (counts.truth >= first) & (counts.truth <= (last or counts.truth.max()))
        buckets.append(Bucket(first, last, over(fits, dice)))
    return Summary(
        dice=mean_with_interval(dice, groups),
        baseline=float((~positive).mean()),
        dice_positive=over(positive, dice),
        by_size=tuple(buckets),
        empty_kept=over(~positive, ~has_mask),
        positive_found=over(positive, has_mask),
        predicted=int(has_mask.sum()),
    )
