"""A submission in a report: its scores against the truth, and its cases."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.annotations.reading import MaskFlags
from datasets.formats.depth import common_bits
from datasets.formats.images import find_images_by_id, image_size, read_image
from utils.errors import InputError
from utils.evaluation.scoring import (
    MaskPairs,
    Summary,
    count_pixels,
    read_mask_pairs,
    score_submission,
)
from utils.report.cases import Areas, Picture, draw_picture


class SubmissionFiles(NamedTuple):
    """What the command is given: a csv, where the true masks are and how to read them, images."""

    submission: Path
    truth: Sequence[Path]
    images: Path
    flags: MaskFlags


class ScoredSubmission(NamedTuple):
    """A submission with its scores.

    Attributes:
        name: of its file.
        summary: the scores.
        areas: what its cases are chosen by.
        pairs: its masks.
        files: image files by id.
    """

    name: str
    summary: Summary
    areas: Areas
    pairs: MaskPairs
    files: dict[str, Path]


def read_submission(given: SubmissionFiles) -> ScoredSubmission:
    """Score a submission; intervals are over images, as their patients are not known.

    Raises:
        InputError: a file is missing or cannot be used, or an image of the submission has none.
    """
    pairs = read_mask_pairs(
        given.submission, given.truth, given.flags, images=given.images, kind="uid"
    )
    files = find_images_by_id(given.images, pairs.ids)
    missing = [name for name in pairs.ids if name not in files]
    if missing:
        raise InputError(
            f"--images {given.images}: has no file of {len(missing):,} images of "
            f"{given.submission}, the first is {missing[0]}"
        )
    counts = count_pixels(pairs, ((name, image_size(files[name])) for name in pairs.ids))
    summary = score_submission(counts, np.full(len(counts.ids), ""))
    areas = Areas(counts.ids, counts.dice, counts.truth, counts.predicted)
    return ScoredSubmission(given.submission.name, summary, areas, pairs, files)


def draw_submission(scored: ScoredSubmission, indices: Sequence[int]) -> dict[int, Picture]:
    """Draw images of a submission, by index.

    Raises:
        InputError: an image cannot be read.
    """
    names = {index: str(scored.areas.ids[index]) for index in indices}
    bits = common_bits(scored.files[name] for name in names.values())
    pictures = {}
    for index, name in names.items():
        grey = read_image(scored.files[name], any_modality=True, bits=bits)
        truth, predicted, _ = scored.pairs.masks(name, (grey.shape[0], grey.shape[1]))
        pictures[index] = draw_picture(grey, truth, predicted)
    return pictures
