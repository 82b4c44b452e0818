"""Score a submission offline as Kaggle does, and break the score down.

    python evaluate.py --submission submission.csv --truth train-rle.csv
    python evaluate.py --submission submission.csv --truth train-rle.csv --scores scores.csv
    python evaluate.py --submission submission.csv --truth datasets/unseen/train_mask
    python evaluate.py --submission submission.csv --truth train-rle.csv \\
        --images datasets/SIIM_data/train_images --worst worst.png
    python evaluate.py --submission submission.csv --truth train-rle.csv \\
        --patients datasets/SIIM_data/patients.csv --out evaluation.json

SUBMISSION has one row per image. TRUTH is a csv with one or more per image, whose union is the true
mask, or a folder of mask files with the names of the images, as for prepare. Only the images
in SUBMISSION are scored, so the predictions of one fold can be compared with the csv of all images;
the number of other images in TRUTH is printed. An image that is not in TRUTH is an error.

The Dice of an image is 2|A and B| / (|A| + |B|), 1 if both masks are empty; the score is the mean
over images. Next to it are printed the score of predicting no mask anywhere, Dice on positives only
and by the size of the true mask, specificity and sensitivity, and, with SCORES (the scores.csv of
predict.py), how well the image-level probability ranks positives above empty images. Every figure
has a 95 % bootstrap interval over images, or over patients with --patients.

Scores about 1,000 images per second. Writes all figures as JSON to OUT, and a picture of the 16
images with the lowest Dice to WORST.
"""

import argparse
import sys

from datasets.annotations.reading import add_mask_flags, unused_mask_flags
from datasets.formats.ids import ID_KINDS, IDS_HELP
from utils.commands.paths import (
    check_not_read,
    file_to_read,
    file_to_write,
    folder_to_read,
    path_to_read,
)
from utils.console import open_parser, whole_number
from utils.errors import command
from utils.limits import PIXELS, SIDE

PICTURES = (".png", ".jpg", ".jpeg")
KAGGLE_SIDE = 1024
"""Of Kaggle's images, in pixels."""


@command
def main(args: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = _parse(args)
    inputs = [options.submission, *options.truth, options.names, options.scores, options.patients]
    for flag in ("out", "worst"):
        if getattr(options, flag):
            check_not_read(f"--{flag}", getattr(options, flag), [*inputs, options.images])
    from utils.commands.evaluate import evaluate

    evaluate(options, default_size=(options.height or KAGGLE_SIDE, options.width or KAGGLE_SIDE))
    return 0


def _parse(args: list[str] | None) -> argparse.Namespace:
    parser = open_parser("python evaluate.py", __doc__)
    add = parser.add_argument
    add(
        "--submission",
        type=file_to_read("--submission", "a csv of masks"),
        required=True,
        help="csv of predicted masks, one row per image",
    )
    add(
        "--truth",
        type=path_to_read("--truth", "a csv of masks, or folders of mask files"),
        nargs="+",
        action="extend",
        required=True,
        help="csv of true masks, or folders of mask files, several of which are joined; may have "
        "other images, too",
    )
    add_mask_flags(add, "TRUTH")
    add(
        "--names",
        type=file_to_read("--names", "a csv of file names and image ids"),
        help="csv of file names and image ids, where mask files are not named by the ids of "
        "SUBMISSION (default: none)",
    )
    add(
        "--scores",
        type=file_to_read("--scores", "the scores.csv that predict.py wrote"),
        help="scores.csv of predict.py, for image-level scores (default: none)",
    )
    add(
        "--patients",
        type=file_to_read("--patients", "a csv of ImageId,PatientId"),
        help="csv of ImageId,PatientId, for intervals over patients (default: none)",
    )
    add(
        "--images",
        type=folder_to_read("--images", "a folder of images"),
        help="folder of DICOM, PNG or JPEG files, for image sizes and --worst (default: none)",
    )
    add(
        "--ids",
        choices=ID_KINDS,
        default="uid",
        help=f"{IDS_HELP}, as mask files are then named, too (default: uid)",
    )
    add(
        "--worst",
        type=file_to_write("--worst"),
        help=".png or .jpg file to draw the images with the lowest Dice to (default: none)",
    )
    add(
        "--out",
        type=file_to_write("--out"),
        help="JSON file to write all figures to (default: none)",
    )
    add(
        "--height",
        type=whole_number(1, SIDE),
        help="height in pixels of images that are not in IMAGES (default: that of the mask file, "
        f"with a csv {KAGGLE_SIDE})",
    )
    add(
        "--width",
        type=whole_number(1, SIDE),
        help="width in pixels of images that are not in IMAGES (default: that of the mask file, "
        f"with a csv {KAGGLE_SIDE})",
    )
    options = parser.parse_args(args)
    _check(options, parser)
    return options


def _check(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Refuse flags that contradict each other or have no effect."""
    if options.worst and not options.images:
        parser.error("--worst needs the images; set their folder with --images")
    if options.worst and options.worst.suffix.lower() not in PICTURES:
        parser.error(f"--worst {options.worst} does not end in {', '.join(PICTURES)}")
    height, width = options.height or KAGGLE_SIDE, options.width or KAGGLE_SIDE
    if height * width > PIXELS:
        parser.error(f"--height {height} --width {width}: the limit is {PIXELS:,} pixels")
    unused = unused_mask_flags(options, folders=any(path.is_dir() for path in options.truth))
    if unused:
        parser.error(f"{', '.join(unused)}: without effect on this kind of --truth; leave it out")


if __name__ == "__main__":
    sys.exit(main())
