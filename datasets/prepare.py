"""Convert downloaded images and a csv of run-length masks to the folders that training reads.

    python -m datasets.prepare --images dicom-images-train --rle train-rle.csv
    python -m datasets.prepare --images stage_1 --rle stage_2_train.csv --out datasets/SIIM_data
    python -m datasets.prepare --images dicom-images-test --split test
    python -m datasets.prepare --images sample --split sample

Searches IMAGES and its subfolders for .dcm, .png and .jpg files and converts 200 to 400 images per
second on two cores. Images that an earlier run converted are kept. Writes to OUT:

    train_images/<id>.jpg|png   8-bit grey: the JPEG inside a DICOM byte for byte, a copy of an
                                8-bit grey JPEG or PNG, or else a PNG
    train_mask/<id>.png         0 and 255, same size as the image: the union of the image's rows
    train_unannotated.txt       the images without a row in the csv, if too many to print
    train_refused.txt           the images that cannot be used and why, if too many to print
    train_bits.json             how many bits 16-bit images were read with, if there are any

--split test writes test_images/, --split sample writes sample_images/ and sample_mask/.

An image without a row in the csv is unannotated, not empty, and is left out. If an earlier run
wrote an image that is unannotated or refused in this run, it is removed from OUT. Other images
stay, so several folders can be prepared into one OUT, one after the other. Files with the same id
and the same pixels count once; if their pixels differ, all of them are refused.

16-bit PNGs, and 16-bit DICOMs without a window or lookup table, do not say how many bits they use.
All of them are read with one depth, the fewest of 8, 10, 12 and 16 bits that hold the largest value
in IMAGES, unless --bits gives it. A folder with another depth is refused for the same OUT.

Exit code: 0; 1 if an image was refused (all others are converted); 2 if nothing could be done.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import NamedTuple

from datasets.formats.annotations import RleRow, check_extent, parse_size, read_annotations
from datasets.formats.depth import DEPTHS, bits_file
from datasets.tools.convert import Job, Outcome, convert, remove
from datasets.tools.originals import (
    decide_bits,
    find_originals,
    identify_originals,
    record_bits,
    show_progress,
)
from utils.console import argument_type, open_parser
from utils.errors import InputError, command
from utils.files import atomic_write
from utils.parallel import open_processes, usable_cores

MAX_PRINTED = 20
# Starting a process costs about as much as preparing this many images.
IMAGES_PER_PROCESS = 64


class Split(NamedTuple):
    """Names in OUT: the two folders, and the csv that is read unless --rle is given."""

    images: str
    masks: str | None = None
    rle: str | None = None


SPLITS = {
    "train": Split("train_images", "train_mask", "train-rle.csv"),
    "test": Split("test_images"),
    "sample": Split("sample_images", "sample_mask", "train-rle-sample.csv"),
}


class Report(NamedTuple):
    """Results of all images; `absent` counts the ids in the csv without an image."""

    outcomes: list[Outcome]
    unannotated: list[str]
    refused: list[str]
    absent: int


@command
def main(args: list[str] | None = None) -> int:
    """Run the command line."""
    options, started = _parse(args), time.perf_counter()
    try:
        report = prepare(
            options.images,
            options.out,
            options.split,
            options.rle,
            options.num_workers,
            options.rle_size,
            options.any_modality == "true",
            options.bits,
        )
        _print(report, options.out, options.split, time.perf_counter() - started)
    except KeyboardInterrupt:
        print(
            "interrupted: all files written so far are complete; run the same command to continue"
        )
        return 130
    except OSError as error:
        raise InputError(
            f"{options.out} cannot be written to ({error}); choose another --out"
        ) from error
    return 1 if report.refused else 0


def prepare(
    images: Path,
    out: Path,
    split: str = "train",
    rle: Path | None = None,
    num_workers: int = 0,
    rle_size: tuple[int, int] | None = None,
    any_modality: bool = False,
    bits: int | None = None,
) -> Report:
    """Convert the images of one split and write their masks.

    Args:
        images: folder of the original images.
        out: parent of the folders of all splits.
        split: a key of `SPLITS`.
        rle: csv of the masks; the split's own by default.
        num_workers: maximum number of processes; 0 works in this one.
        rle_size: height and width that the csv is for, if not those of the images.
        any_modality: accept DICOMs that are no X-rays.
        bits: bits that 16-bit images use; found in their values by default.

    Raises:
        InputError: there are no images, the csv is unusable, none of its rows matches an image, or
            `out` has 16-bit images of another depth.
    """
    names = SPLITS[split]
    folders = [out / name for name in (names.images, names.masks) if name]
    paths = find_originals(images, folders)
    csv = rle or (out / names.rle if names.rle else None)
    rows = read_annotations(csv) if csv else {}
    with open_processes(min(num_workers, len(paths) // IMAGES_PER_PROCESS), 16) as run:
        files, sizes, deep, refused = identify_originals(run, paths)
        chosen = [name for name in files if csv is None or name in rows]
        if files and not chosen:
            raise InputError(
                f"{csv}: has no row for any of the {len(files)} images in {images}; check --images "
                "and --rle"
            )
        if rle_size is None:
            _check_extents(rows, sizes, csv)
        bits = decide_bits(run, deep, [bits_file(out, s) for s in SPLITS], bits, any_modality)
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        if bits is not None:
            record_bits(bits_file(out, split), bits, folders, deep.values())
        unannotated = sorted(set(files) - set(chosen))
        for name in unannotated:
            remove(name, folders)
        jobs = [
            Job(name, files[name], folders, rows.get(name, []), csv, any_modality, rle_size, bits)
            for name in chosen
        ]
        outcomes = list(show_progress(run(convert, jobs), len(jobs), "converting"))
    refused += [outcome.refused for outcome in outcomes if outcome.refused]
    return Report(outcomes, unannotated, refused, len(set(rows) - set(files)))


def _check_extents(
    rows: dict[str, list[RleRow]], sizes: dict[str, tuple[int, int]], csv: Path | None
) -> None:
    for name in rows.keys() & sizes.keys():
        check_extent(name, rows[name], sizes[name], csv)


def _parse(args: list[str] | None) -> argparse.Namespace:
    parser = open_parser("python -m datasets.prepare", __doc__)
    add = parser.add_argument
    add(
        "--images",
        type=Path,
        required=True,
        help="folder of .dcm, .png or .jpg files, subfolders included",
    )
    add(
        "--rle",
        type=Path,
        help="csv of masks (default: OUT/train-rle.csv; for sample, OUT/train-rle-sample.csv)",
    )
    add("--split", choices=SPLITS, default="train", help="which folders to write (default: train)")
    add(
        "--out",
        type=Path,
        default=Path("datasets/SIIM_data"),
        help="folder to write to (default: datasets/SIIM_data)",
    )
    add(
        "--rle_size",
        type=argument_type(parse_size),
        metavar="HxW",
        help="height and width of the images that the csv is for, such as 1024x1024; masks are "
        "resized to the images (default: the size of each image)",
    )
    add(
        "--any_modality",
        choices=("true", "false"),
        default="false",
        help="accept DICOMs whose modality is not an X-ray, such as CT (default: false)",
    )
    add(
        "--bits",
        type=int,
        choices=DEPTHS,
        help="bits that 16-bit images use (default: the fewest that hold their largest value)",
    )
    add(
        "--num_workers",
        type=int,
        default=usable_cores(),
        help="number of worker processes; 0 uses the main process (default: number of CPU cores)",
    )
    options = parser.parse_args(args)
    if options.rle and SPLITS[options.split].masks is None:
        parser.error(f"--split {options.split} has no masks; leave out --rle")
    if options.num_workers < 0:
        parser.error(f"--num_workers {options.num_workers}: must be 0 or more")
    return options


def _print(report: Report, out: Path, split: str, seconds: float) -> None:
    done = [outcome for outcome in report.outcomes if not outcome.refused]
    written = sum(outcome.written for outcome in done)
    positive = sum(outcome.positive for outcome in done)
    copies = sum(outcome.copies for outcome in done)
    _list("unannotated, left out", report.unannotated, out / f"{split}_unannotated.txt")
    _list("refused", report.refused, out / f"{split}_refused.txt")
    if copies:
        print(f"{copies} files skipped: same id and pixels as another file")
    if report.absent:
        print(f"{report.absent} ids in the csv have no image")
    print(
        f"{out / SPLITS[split].images}: {written} images written, {len(done) - written} up to date"
        + (f", {positive} positive" if SPLITS[split].masks else "")
        + f"; {len(report.unannotated)} unannotated, {len(report.refused)} refused; "
        f"{seconds:.1f} s, {len(done) / seconds:.0f} images/s"
    )


def _list(what: str, lines: list[str], path: Path) -> None:
    path.unlink(missing_ok=True)
    if len(lines) > MAX_PRINTED:
        with atomic_write(path, flush=False) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{len(lines)} {what}: listed in {path}")
    else:
        for line in lines:
            print(f"{what}: {line}")


if __name__ == "__main__":
    sys.exit(main())
