"""Draw what each augmentation set does to one training image.

    python -m datasets.preview --out sheet.png
    python -m datasets.preview --out sheet.png --image ID --size 1024 --seed 7

One row per set: the image as prepared for training, then augmented with seven seeds, the same in
every row. The mask is outlined.
"""

import argparse
import sys
from pathlib import Path

from datasets.siim import check_folders
from utils.commands.paths import check_not_read, file_to_write
from utils.console import open_parser, whole_number
from utils.errors import command

SUFFIXES = (".png", ".jpg", ".jpeg")


@command
def main(args: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = _parse(args)
    check_folders(options.dataset_root)
    folders = [options.dataset_root / name for name in ("train_images", "train_mask")]
    check_not_read("--out", options.out, folders)
    from utils.commands.preview import preview

    preview(options)
    return 0


def _parse(args: list[str] | None) -> argparse.Namespace:
    parser = open_parser("python -m datasets.preview", __doc__)
    parser.add_argument(
        "--out", type=_picture, required=True, help="picture to write, a .png or .jpg file"
    )
    parser.add_argument(
        "--image", metavar="ID", help="id of the image to draw (default: the first positive)"
    )
    parser.add_argument(
        "--dataset_root",
        type=Path,
        default=Path("./datasets/SIIM_data"),
        help="folder with train_images/ and train_mask/ (default: ./datasets/SIIM_data)",
    )
    parser.add_argument(
        "--size",
        type=whole_number(1, 4096),
        default=512,
        help="side of the image in pixels (default: 512)",
    )
    parser.add_argument(
        "--clahe",
        choices=("true", "false"),
        default="true",
        help="apply CLAHE, as training does (default: true)",
    )
    parser.add_argument(
        "--seed",
        type=whole_number(0, 2**32 - 1),
        default=0,
        help="first of the seven seeds (default: 0)",
    )
    return parser.parse_args(args)


def _picture(text: str) -> Path:
    if Path(text).suffix.lower() not in SUFFIXES:
        raise argparse.ArgumentTypeError(f"{text!r} does not end in {', '.join(SUFFIXES)}")
    return file_to_write("--out")(text)


if __name__ == "__main__":
    sys.exit(main())
