"""Score a submission as Kaggle does, without Kaggle, and say what stands behind the score.

    python evaluate.py --submission submission.csv --truth train-rle.csv
    python evaluate.py --submission submission.csv --truth train-rle.csv --scores scores.csv
    python evaluate.py --submission submission.csv --truth train-rle.csv \\
        --images datasets/SIIM_data/train_images --worst worst.png
    python evaluate.py --submission submission.csv --truth train-rle.csv \\
        --patients datasets/SIIM_data/patients.csv --out evaluation.json

SUBMISSION has one row per image, TRUTH any number (all are joined). The images of the submission
are scored, so that of one fold can be held against the whole csv; annotated images that it lacks
are counted and said. An image that TRUTH does not know is an error, as it has no score.

Dice of an image is 2|A and B| / (|A| + |B|), 1 where both are empty; the score is the mean over
images. Beside it: the score of leaving every image empty, Dice on positives alone and by the size
of the true mask, how many images are rightly given a mask or none, and from SCORES (written by
predict.py) how well the probability of an image ranks positives above empty images. Every
figure has a 95 % bootstrap interval over images; over patients where they are given.

Expect about 1,000 images per second. On disk appear: OUT, all figures as JSON, and WORST, the 16
images of the lowest Dice.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from datasets.folds import read_patients
from datasets.formats.images import find_images_by_id, image_size
from utils.errors import InputError, command
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
from utils.files import write_json

PICTURES = (".png", ".jpg", ".jpeg")


@command
def main(args: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = _parse(args)
    pairs = read_mask_pairs(options.submission, options.truth)
    scores = read_scores(options.scores, pairs.ids) if options.scores else None
    groups = _groups(pairs.ids, options.patients)
    files = find_images_by_id(options.images, pairs.ids) if options.images else {}
    default = (options.height, options.width)
    counts = count_pixels(pairs, _sizes(pairs.ids, files, default))
    summary, detection = score_submission(counts, groups), None
    if scores is not None:
        _print_other_areas(options.scores, counts.predicted, scores["area"].to_numpy())
        detection = score_image_level(scores["probability"].to_numpy(), counts.positive, groups)
    _print(options, pairs, summary, detection)
    try:
        if options.out:
            write_json(options.out, _content(options, pairs, summary, detection))
        if options.worst:
            _print_missing(write_worst_sheet(options.worst, pairs, counts, files, default), options)
    except OSError as error:
        raise InputError(f"the results cannot be written ({error})") from error
    return 0


def _parse(args: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python evaluate.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--submission", type=Path, required=True, help="csv of predicted masks, a row per image")
    add("--truth", type=Path, required=True, help="csv of true masks; may hold further images")
    add("--scores", type=Path, help="csv of ImageId,probability,area, for the image-level results")
    add("--patients", type=Path, help="csv of ImageId,PatientId: intervals are over patients")
    add("--images", type=Path, help="folder of .dcm, .png or .jpg: their sizes, and for --worst")
    add("--worst", type=Path, help=".png or .jpg to draw the images of the lowest Dice on")
    add("--out", type=Path, help="JSON to write all figures to")
    add("--height", type=int, default=1024, help="pixels, of images not in --images (1024)")
    add("--width", type=int, default=1024, help="pixels, of images not in --images (1024)")
    options = parser.parse_args(args)
    if options.worst and not options.images:
        parser.error("--worst draws on the images that --images names; give both")
    if options.worst and options.worst.suffix.lower() not in PICTURES:
        parser.error(f"--worst {options.worst} does not end in {', '.join(PICTURES)}")
    if min(options.height, options.width) < 1:
        parser.error(f"--height {options.height} --width {options.width}: no pixels")
    return options


def _groups(ids: list[str], patients: Path | None) -> np.ndarray:
    known = read_patients(patients) if patients else {}
    unknown = sum(not known.get(name) for name in ids)
    if patients and unknown:
        print(f"{patients}: the patient of {unknown:,} images is not known; each stands alone")
    return np.array([known.get(name) or name for name in ids])


def _sizes(
    ids: list[str], files: dict[str, Path], default: tuple[int, int]
) -> Iterator[tuple[str, tuple[int, int]]]:
    for name in tqdm(ids, "scoring", unit="image", disable=None):
        yield name, image_size(files[name]) if name in files else default


def _print_other_areas(path: Path, predicted: np.ndarray, area: np.ndarray) -> None:
    others = np.count_nonzero(predicted != area)
    if others:
        print(f"{path}: another area for {others:,} images; is it of this submission?")


def _print(
    options: argparse.Namespace,
    pairs: MaskPairs,
    summary: Summary,
    detection: ImageLevelScores | None,
) -> None:
    print(f"{options.submission} against {options.truth}")
    if pairs.left_out:
        print(f"{pairs.left_out:,} annotated images are not in the submission and not scored")
    print(f"{summary.predicted:,} of {len(pairs.ids):,} images are given a mask\n")
    over = "patients" if options.patients else "images"
    print(f"{'':46}{'images':>8}{'value':>9}   95 % interval over {over}")
    for label, value in _lines(summary, detection):
        print(f"{label:46}{_figures(value)}")


def _lines(
    summary: Summary, detection: ImageLevelScores | None
) -> Iterator[tuple[str, Estimate | float]]:
    yield "Dice", summary.dice
    yield "  of leaving every image empty", summary.baseline
    yield "Dice on positives", summary.dice_positive
    for bucket in summary.by_size:
        yield f"  true mask of {_range(bucket)} px", bucket.dice
    yield "empty images left empty (specificity)", summary.empty_kept
    yield "positives given a mask (sensitivity)", summary.positive_found
    if detection:
        yield "AUC of the probabilities in SCORES", detection.auc
        yield from _cut_lines(detection.half, "")
        yield from _cut_lines(detection.best, ", chosen here")


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
    print(f"\n{options.worst}: the images of the lowest Dice")
    for name in missing:
        print(f"{name} is not in {options.images}: its masks are drawn on black")


def _content(
    options: argparse.Namespace,
    pairs: MaskPairs,
    summary: Summary,
    detection: ImageLevelScores | None,
) -> dict:
    return {
        "submission": str(options.submission),
        "truth": str(options.truth),
        "not_in_submission": pairs.left_out,
        "intervals_over": "patients" if options.patients else "images",
        **asdict(summary),
        "detection": asdict(detection) if detection else None,
    }


if __name__ == "__main__":
    sys.exit(main())
