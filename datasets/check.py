"""Check a data set before training and list everything that is wrong with it.

    python -m datasets.check
    python -m datasets.check --dataset_root datasets/SIIM_data --exclude bad.txt
    python -m datasets.check --folds checkpoints/unet_resnet34/RUN

Decodes every image and mask in DATASET_ROOT/train_images and DATASET_ROOT/train_mask, 100 to 200
images per second on two cores, and reports by file or image id:

    problems that would stop training: files that are unreadable or truncated, images whose size
        differs from their mask's, masks that do not have exactly two values, 16-bit images, ids
        shared by several files; no positive at all
    images without a mask file and mask files without an image, both of which training leaves out
    masks with a grey level other than 255, which training accepts
    ids with identical pixels: whether their masks differ and, with --folds, whether they are in
        different folds, which leaks validation images into training
    files of the data set's cache, if there is one, that differ from their checksums

Writes to OUT:

    check.json   all figures, ids and files
    check.png    mask sizes, share of positives, image sizes

Exit code: 0; 1 if something would stop training, or if the cache is damaged; 2 if the data set
cannot be read.
"""

import argparse
import sys
from pathlib import Path

from datasets.siim import check_folders
from utils.commands.paths import file_to_read, folder_to_read, folder_to_write, path_to_read
from utils.console import open_parser
from utils.errors import command


@command
def main(args: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = _parse(args)
    check_folders(options.dataset_root)
    from utils.commands.check import check

    return 0 if check(options) else 1


def _parse(args: list[str] | None) -> argparse.Namespace:
    parser = open_parser("python -m datasets.check", __doc__)
    add = parser.add_argument
    add(
        "--dataset_root",
        type=Path,
        default=Path("datasets/SIIM_data"),
        help="folder with train_images/ and train_mask/ (default: datasets/SIIM_data)",
    )
    add(
        "--out",
        type=folder_to_write,
        help="folder for check.json and check.png (default: DATASET_ROOT)",
    )
    add(
        "--exclude",
        type=file_to_read("--exclude", "a text file of image ids"),
        help="text file of images to leave out, one id per line, as for training (default: none)",
    )
    add(
        "--cache_dir",
        type=folder_to_read("--cache_dir", "the --cache_dir of a training"),
        help="folder of the cache (default: DATASET_ROOT/cache)",
    )
    add(
        "--folds",
        type=path_to_read("--folds", "the folder of a run, or a folds.csv"),
        help="run folder or folds.csv in which to look up duplicates (default: none)",
    )
    return parser.parse_args(args)


if __name__ == "__main__":
    sys.exit(main())
