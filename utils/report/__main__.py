"""Write report.html of a run, or of several runs side by side.

    python -m utils.report --run checkpoints/unet_resnet34/RUN
    python -m utils.report --run checkpoints/unet_resnet34/RUN --attributes attributes.csv
    python -m utils.report --run checkpoints/unet_resnet34/RUN --submission submission.csv \\
        --truth stage_2_train.csv --images test_images
    python -m utils.report --run checkpoints/unet_resnet34/A --run checkpoints/linknet/B \\
        --out compared.html

Training writes it at its end, too. The page is one file that loads nothing from anywhere: what was
trained on what, the score with its interval beside that of leaving every image empty, the folds,
curves, thresholds to play with, ROC, calibration, Dice over the size of the mask, and cases as
pictures. ATTRIBUTES is a csv with a column of image ids and any others, such as view, sex, age or
hospital: every plot is then drawn for each of their values, too. Several runs are compared image by
image, with intervals of the differences over patients.

Pictures show X-rays: whoever gets the page gets patient data. With --pictures false it has none.
Image ids are only shown with pictures.

Takes seconds, and a little for each image of a run, which is predicted anew to be shown.
"""

import argparse
import sys
from pathlib import Path

from datasets.annotations.reading import add_mask_flags, mask_flags, unused_mask_flags
from utils.commands.paths import (
    check_output_file,
    file_to_read,
    file_to_write,
    folder_to_read,
    path_to_read,
)
from utils.console import open_parser, whole_number
from utils.errors import command
from utils.inference.runs import read_run_config
from utils.report import CASES, REPORT

MOST_CASES = 1000


@command
def main(args: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = _parse(args)
    for run in options.run:
        read_run_config(run, "all")
    out = options.out or options.run[0] / REPORT
    check_output_file("--out", out)
    from utils.report.submission import SubmissionFiles
    from utils.report.writing import ReportOptions, write_report

    submission = None
    if options.submission:
        files = (options.submission, options.truth, options.images)
        submission = SubmissionFiles(*files, mask_flags(options))
    shown = ReportOptions(
        options.pictures == "true",
        options.cases,
        options.dataset_root,
        options.attributes,
        submission,
    )
    has_pictures = write_report(options.run, out, shown)
    print(f"report: {out}" + (", with X-rays: patient data" if has_pictures else ""))
    return 0


def _parse(args: list[str] | None) -> argparse.Namespace:
    parser = open_parser("python -m utils.report", __doc__)
    add = parser.add_argument
    add(
        "--run",
        type=Path,
        action="append",
        required=True,
        metavar="DIR",
        help="folder of a run; given several times, the others are compared with the first",
    )
    add(
        "--out",
        type=file_to_write("--out", ".html"),
        help="the file to write, which ends in .html (default: report.html in the run's folder)",
    )
    add(
        "--dataset_root",
        type=folder_to_read("--dataset_root", "a folder with train_images/ and train_mask/"),
        help="folder of the runs' data set, with train_images/ and train_mask/, if it was moved "
        "(default: that of each run)",
    )
    add(
        "--attributes",
        type=file_to_read("--attributes", "a csv of image ids and their attributes"),
        help="csv of attributes of the images (default: none)",
    )
    add(
        "--pictures",
        choices=("true", "false"),
        default="true",
        help="show X-rays with their masks (default: true)",
    )
    add(
        "--cases",
        type=whole_number(1, MOST_CASES),
        default=CASES,
        help=f"images of each kind to show (default: {CASES})",
    )
    add(
        "--submission",
        type=file_to_read("--submission", "a csv of masks"),
        help="csv of masks of other images (default: none)",
    )
    add(
        "--truth",
        type=path_to_read("--truth", "a csv of masks, or folders of mask files"),
        nargs="+",
        help="csv of their true masks, or folders of mask files",
    )
    add(
        "--images",
        type=folder_to_read("--images", "a folder of images"),
        help="folder of these images",
    )
    add_mask_flags(add, "TRUTH")
    options = parser.parse_args(args)
    _check(options, parser)
    return options


def _check(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Refuse flags that contradict each other or have no effect."""
    together = ("submission", "truth", "images")
    missing = [name for name in together if getattr(options, name) is None]
    if 0 < len(missing) < len(together):
        parser.error(f"--submission, --truth and --images go together; add --{missing[0]}")
    if len(options.run) > 1 and not missing:
        parser.error("--submission is that of one run; give one --run")
    if len(options.run) > 1 and options.out is None:
        parser.error("with several runs, say where to write with --out")
    truth = options.truth or []
    unused = unused_mask_flags(options, folders=any(path.is_dir() for path in truth))
    if truth and unused:
        parser.error(f"{', '.join(unused)}: without effect on this kind of --truth; leave it out")


if __name__ == "__main__":
    sys.exit(main())
