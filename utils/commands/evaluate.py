"""The work of evaluate.py: read masks and truth, score them, print and write every figure."""

import argparse
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from datasets.annotations.kinds import Changes, MaskFiles
from datasets.annotations.names import read_names
from datasets.annotations.reading import mask_flags
from datasets.formats import rle
from datasets.formats.images import find_images_by_id, image_size
from datasets.patients import describe_unknown, read_patients
from utils.errors import InputError
from utils.evaluation.image_level import (
    ImageLevelScores,
    OperatingPoint,
    read_scores,
    score_image_level,
)
from utils.evaluation.scoring import (
    Bucket,
    Estimate,
    MaskPairs,
    Summary,
    count_pixels,
    read_mask_pairs,
    score_submission,
)
from utils.evaluation.worst_cases import write_worst_sheet
from utils.files import write_json, write_output

FEW_MASKS = 5
"""Fewer predicted masks say nothing about the size of their images."""


def evaluate(options: argparse.Namespace, default_size: tuple[int, int]) -> None:
    """Score a submission as the options of evaluate.py say.

    Args:
        options: the command line of evaluate.py.
        default_size: height and width in pixels of images whose size no file says.

    Raises:
        InputError: a file cannot be used.
        OSError: a result cannot be written.
    """
    names = read_names(options.names) if options.names else None
    pairs = read_mask_pairs(
        options.submission,
        options.truth,
        mask_flags(options),
        names,
        options.images,
        options.ids,
    )
    scores = read_scores(options.scores, pairs.ids) if options.scores else None
    groups = _groups(pairs.ids, options.patients)
    files = find_images_by_id(options.images, pairs.ids, options.ids) if options.images else {}
    if not files:
        _warn_of_another_size(pairs, default_size)
    # Without images, masks say their size, unless it is given.
    masks = {} if options.height or options.width else _mask_files(pairs)
    counts = count_pixels(pairs, _sizes(pairs.ids, masks | files, default_size))
    summary, image_level = score_submission(counts, groups), None
    if scores is not None:
        _warn_of_other_areas(options.scores, counts.predicted, scores["area"].to_numpy())
        image_level = score_image_level(scores["probability"].to_numpy(), counts.positive, groups)
    _print(options, pairs, counts.changes, summary, image_level)
    if options.out:
        write_json(options.out, _content(options, pairs, summary, image_level), write_output)
    if options.worst:
        _print_missing(
            write_worst_sheet(options.worst, pairs, counts, files, default_size), options
        )


def _groups(ids: list[str], patients: Path | None) -> np.ndarray:
    known = read_patients(patients) if patients else {}
    problem = describe_unknown(known, ids) if patients else None
    if problem:
        raise InputError(f"--patients {patients}: {problem}")
    unknown = sum(not known.get(name) for name in ids)
    if patients and unknown:
        print(f"{patients}: the patient of {unknown:,} images is unknown; each counts as a patient")
    # With a word before each, because a patient may have the name of an image.
    patient_of = {name: f"patient {patient}" for name, patient in known.items() if patient}
    return np.array([patient_of.get(name, f"image {name}") for name in ids])


def _mask_files(pairs: MaskPairs) -> dict[str, Path]:
    return {name: true.paths[0] for name, true in pairs.true.items() if isinstance(true, MaskFiles)}


def _sizes(
    ids: list[str], files: dict[str, Path], default: tuple[int, int]
) -> Iterator[tuple[str, tuple[int, int]]]:
    for name in tqdm(ids, "scoring", unit="image", disable=None):
        yield name, image_size(files[name]) if name in files else default


def _warn_of_another_size(pairs: MaskPairs, size: tuple[int, int]) -> None:
    """Warn of a submission for smaller images, whose runs fit but mean other pixels."""
    height, width = size
    ends = [rle.extent(row.rle) for row in pairs.predicted.values()]
    masks, furthest = np.count_nonzero(ends), max(ends, default=0)
    true = max((annotation.extent() for annotation in pairs.true.values()), default=0)
    if masks >= FEW_MASKS and furthest <= height * width // 4 < true:
        print(
            f"warning: all {masks:,} predicted masks end within the first quarter of "
            f"{width}x{height} pixels, true ones do not. If {pairs.submission} is for smaller "
            f"images, give their size and that of {pairs.truth}, for example --height 512 "
            f"--width 512 --rle_size {height}x{width}"
        )


def _warn_of_other_areas(path: Path, predicted: np.ndarray, area: np.ndarray) -> None:
    others = np.count_nonzero(predicted != area)
    if others:
        print(
            f"warning: {path} has another mask area for {others:,} images; check that it belongs "
            "to the submission"
        )


def _print(
    options: argparse.Namespace,
    pairs: MaskPairs,
    changes: Changes,
    summary: Summary,
    image_level: ImageLevelScores | None,
) -> None:
    print(f"{options.submission} against {pairs.truth}")
    if pairs.left_out:
        what = "mask files" if options.truth[0].is_dir() else "annotated images"
        print(f"{pairs.left_out:,} {what} are not in the submission and not scored")
    for line in changes.describe():
        print(line)
    print(f"{summary.predicted:,} of {len(pairs.ids):,} images have a predicted mask\n")
    over = "patients" if options.patients else "images"
    print(f"{'':46}{'images':>8}{'value':>9}   95 % interval over {over}")
    for label, value in _lines(summary, image_level):
        print(f"{label:46}{_figures(value)}")


def _lines(
    summary: Summary, image_level: ImageLevelScores | None
) -> Iterator[tuple[str, Estimate | float]]:
    yield "Dice", summary.dice
    yield "  of predicting no mask anywhere", summary.baseline
    yield "Dice on positives", summary.dice_positive
    for bucket in summary.by_size:
        yield f"  true mask of {_range(bucket)} px", bucket.dice
    yield "empty images left empty (specificity)", summary.empty_kept
    yield "positives with a predicted mask (sensitivity)", summary.positive_found
    if image_level:
        yield "image-level AUC of SCORES", image_level.auc
        yield from _cut_lines(image_level.half, "")
        yield from _cut_lines(image_level.best, ", chosen here")


def _cut_lines(cut: OperatingPoint, note: str) -> Iterator[tuple[str, Estimate]]:
    yield f"  sensitivity at {cut.threshold:.3f}{note}", cut.sensitivity
    yield f"  specificity at {cut.threshold:.3f}{note}", cut.specificity


def _range(bucket: Bucket) -> str:
    return f"{bucket.first:,} to {bucket.last:,}" if bucket.last else f"{bucket.first:,} or more"


def _figures(value: Estimate | float) -> str:
    if isinstance(value, float):
        return f"{'':8}{value:9.4f}"
    if np.isnan(value.mean):
        return f"{value.images:8,}{'-':>9}"
    return f"{value.images:8,}{value.mean:9.4f}   {value.low:.4f} to {value.high:.4f}"


def _print_missing(missing: list[str], options: argparse.Namespace) -> None:
    print(f"\n{options.worst}: the images with the lowest Dice")
    for name in missing:
        print(f"{name} is not in {options.images}: its masks are drawn on a black image")


def _content(
    options: argparse.Namespace,
    pairs: MaskPairs,
    summary: Summary,
    image_level: ImageLevelScores | None,
) -> dict:
    return {
        "submission": str(options.submission),
        "truth": pairs.truth,
        "not_in_submission": pairs.left_out,
        "intervals_over": "patients" if options.patients else "images",
        **asdict(summary),
        "detection": asdict(image_level) if image_level else None,
    }
