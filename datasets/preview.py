"""Draw what every augmentation set does to one training image.

    python -m datasets.preview --out sheet.png
    python -m datasets.preview --out sheet.png --image ID --size 1024 --seed 7

One row per set: the image as prepared for training, then augmented with seven seeds, the mask
outlined. The seeds are the same in every row.
"""

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np

from datasets.augmentation import AUGMENTATIONS, Augmentation
from datasets.formats.images import read_mask
from datasets.siim import find_samples
from datasets.sources.base import Sample
from datasets.sources.files import FileSource
from utils.console import print0
from utils.drawing import TRUTH, contact_sheet, tile
from utils.errors import InputError, command
from utils.files import atomic_write

SEEDS = 7
"""Changed images of a row."""
SUFFIXES = (".png", ".jpg", ".jpeg")


@command
def main(args: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = _parse(args)
    sample = _choose(find_samples(options.dataset_root).samples, options.image)
    prepared = FileSource({sample.id: sample}, options.clahe == "true").pixels(
        [sample.id], options.size
    )
    sheet = draw_sheet(*prepared.pair(0), options.seed, _title(sample, options))
    encoded = cv2.imencode(options.out.suffix.lower(), sheet[..., ::-1])[1]
    try:
        with atomic_write(options.out) as temporary:
            temporary.write_bytes(encoded.tobytes())
    except OSError as error:
        raise InputError(f"{options.out} cannot be written: {error.strerror}") from error
    print0(f"{options.out}: image {sample.id}")
    return 0


def draw_sheet(
    image: np.ndarray, mask: np.ndarray, seed: int, title: tuple[str, str]
) -> np.ndarray:
    """Draw a row for each set of augmentations but none.

    Args:
        image: [H,W] uint8.
        mask: [H,W] uint8 of 0 and 1, outlined in green.
        seed: the first of the seeds.
        title: the two lines above.

    Returns:
        uint8 RGB.
    """
    names = [name for name in AUGMENTATIONS if name != "none"]
    tiles = []
    for name in names:
        augment = Augmentation(name)
        tiles.append(tile(image, mask, ("not augmented", _area(mask)), TRUTH))
        for number in range(seed, seed + SEEDS):
            changed, changed_mask = augment(image, mask, number)
            caption = (f"seed {number}", _area(changed_mask))
            tiles.append(tile(changed, changed_mask, caption, TRUTH))
    return contact_sheet(tiles, title, columns=1 + SEEDS, row_titles=names)


def _area(mask: np.ndarray) -> str:
    return f"mask {mask.mean():.2%}"


def _title(sample: Sample, options: argparse.Namespace) -> tuple[str, str]:
    clahe = "after CLAHE" if options.clahe == "true" else "without CLAHE"
    return (
        "Augmentations of one image",
        f"{sample.id}, {options.size}x{options.size} pixels {clahe}, mask outlined",
    )


def _choose(samples: dict[str, Sample], wanted: str | None) -> Sample:
    """Give the image that is asked for, or else the first with a mask that is not empty."""
    if wanted is None:
        positive = (sample for sample in samples.values() if read_mask(sample.mask).any())
        # All masks may be empty; then the first image shows as much as any.
        return next(positive, next(iter(samples.values())))
    if wanted not in samples:
        raise InputError(
            f"--image {wanted}: none of the {len(samples):,} annotated images has this id, which is"
            f" a file's name without its suffix, such as {next(iter(samples))}"
        )
    return samples[wanted]


def _parse(args: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m datasets.preview",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--out", type=_picture, required=True, help="picture to write, .png or .jpg"
    )
    parser.add_argument("--image", metavar="ID", help="image to show (default: first with a mask)")
    parser.add_argument(
        "--dataset_root",
        type=Path,
        default=Path("./datasets/SIIM_data"),
        help="folder with train_images/ and train_mask/ (default: ./datasets/SIIM_data)",
    )
    parser.add_argument("--size", type=_positive, default=512, help="side in pixels (default: 512)")
    parser.add_argument(
        "--clahe", choices=("true", "false"), default="true", help="apply CLAHE (default: true)"
    )
    parser.add_argument(
        "--seed", type=_natural, default=0, help="first of the seven seeds (default: 0)"
    )
    return parser.parse_args(args)


def _picture(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in SUFFIXES:
        raise argparse.ArgumentTypeError(f"{text!r} does not end in {', '.join(SUFFIXES)}")
    return path


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def _positive(text: str) -> int:
    if not _natural(text):
        raise argparse.ArgumentTypeError("a side has at least 1 pixel")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
