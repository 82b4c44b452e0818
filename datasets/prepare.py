"""Convert downloaded images and their masks to the folders that training reads.

    python -m datasets.prepare --images dicom-images-train --rle train-rle.csv
    python -m datasets.prepare --images png_images --masks png_masks \\
        --names stage_1_train_images.csv
    python -m datasets.prepare --images CXR_png --masks ManualMask/leftMask ManualMask/rightMask
    python -m datasets.prepare --images dicom-images-test --split test
    python -m datasets.prepare --images sample --split sample

Searches IMAGES and its subfolders for DICOM, PNG and JPEG files and converts 200 to 400 images per
second on two cores. Images that OUT already has with the same pixels are kept. Writes to OUT:

    train_images/<id>.jpg|png   8-bit grey: the JPEG inside a DICOM byte for byte, a copy of an
                                8-bit grey JPEG or PNG, or else a PNG
    train_mask/<id>.png         0 and 255, same size as the image: the union of the image's rows or
                                mask files
    train_unannotated.txt       the images without a row or mask file, if too many to print
    train_refused.txt           the images that cannot be used and why, if too many to print
    patients.csv                the patient of each image, where the files say it: by a PatientID
                                that repeats, or by names and folders as NIH, CheXpert and MIMIC
                                have them; what is in it already stays
    train_ids.json              how the images are named, if --ids says so
    train_bits.json             how many bits 16-bit images were read with, if there are any

--split test writes test_images/, --split sample writes sample_images/ and sample_mask/.

Masks are the run lengths of a csv (--rle), or PNG and JPEG files (--masks) that have the names of
their images. Several folders of masks are joined: a pixel in any of them belongs to the mask. The
names of masks may end in _mask or .mask, or in MASK_SUFFIX, and those of images in nnU-Net's _0000.
A mask of another size than its image is resized by area and cut at half.

An image without a row or mask file is unannotated, not empty, and is left out. If an earlier run
wrote an image that is unannotated or refused in this run, it is removed from OUT. Other images
stay, so several folders can be prepared into one OUT, one after the other. Files with the same id
and the same pixels count once; if their pixels differ, all of them are refused.

NAMES is a csv with the columns new_filename (or filename), ImageId and perhaps has_pneumo: only the
images that it lists are converted, under its ids. An image whose mask contradicts its label there
is refused.

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

from datasets.annotations.kinds import NothingMatchesError
from datasets.annotations.names import read_names, row_of, select_named
from datasets.annotations.reading import (
    CsvMasks,
    FolderMasks,
    Found,
    MaskSource,
    add_mask_flags,
    mask_flags,
    unused_mask_flags,
)
from datasets.formats.depth import DEPTHS, bits_file
from datasets.formats.ids import (
    ID_KINDS,
    IDS_HELP,
    IdRule,
    check_id_kind,
    record_id_kind,
    refuse_test_images,
)
from datasets.patients import PATIENTS_CSV, record_patients
from datasets.tools.convert import Job, convert, remove
from datasets.tools.originals import (
    decide_bits,
    find_originals,
    identify_originals,
    record_bits,
    show_progress,
)
from datasets.tools.report import Report
from utils.commands.paths import file_to_read, folder_to_read, folder_to_write
from utils.console import open_parser, whole_number
from utils.errors import InputError, cause_of, command
from utils.limits import WORKERS
from utils.parallel import open_processes, usable_cores

# Starting a process costs about as much as preparing this many images.
IMAGES_PER_PROCESS = 64


class Split(NamedTuple):
    """Names in OUT: the two folders, and the csv that is read without --rle and --masks."""

    images: str
    masks: str | None = None
    rle: str | None = None


SPLITS = {
    "train": Split("train_images", "train_mask", "train-rle.csv"),
    "test": Split("test_images"),
    "sample": Split("sample_images", "sample_mask", "train-rle-sample.csv"),
}


@command
def main(args: list[str] | None = None) -> int:
    """Run the command line."""
    options, started = parse(args), time.perf_counter()
    split = SPLITS[options.split]
    try:
        report = prepare(options)
        report.print(
            options.out / split.images,
            options.out / options.split,
            has_masks=split.masks is not None,
            seconds=time.perf_counter() - started,
        )
    except KeyboardInterrupt:
        print(
            "interrupted: all files written so far are complete; run the same command to continue"
        )
        return 130
    except OSError as error:
        raise InputError(
            f"{options.out} cannot be written to ({cause_of(error)}); choose another --out"
        ) from error
    return 1 if report.refused else 0


def prepare(options: argparse.Namespace) -> Report:
    """Convert the images of one split and write their masks.

    Args:
        options: of the command line.

    Raises:
        InputError: there are no images, the masks are unusable, none of them belongs to an image,
            or OUT has 16-bit images of another depth, or images named by another rule.
    """
    out, split = options.out, SPLITS[options.split]
    folders = [out / name for name in (split.images, split.masks) if name]
    any_modality = options.any_modality == "true"
    masks = _open_masks(options)
    paths = find_originals(options.images, folders, masks.no_images() if masks else ())
    names, notes = None, []
    if options.names:
        names = read_names(options.names)
        paths, absent = select_named(paths, names, options.names)
        if absent:
            notes.append(
                f"{len(absent):,} files that {options.names} names are missing in "
                f"{options.images}, such as {absent[0]}"
            )
    check_id_kind(out, options.split, options.ids, folders[0])
    rule = IdRule.of_folder(options.ids, options.images, paths)
    with open_processes(min(options.num_workers, len(paths) // IMAGES_PER_PROCESS), 16) as run:
        files, sizes, deep, patients, refused = identify_originals(run, paths, rule, names)
        found = _find_masks(masks, files, options.images)
        for name, annotation in found.annotations.items():
            if annotation is not None and name in sizes:
                annotation.check(name, sizes[name])
        records = [bits_file(out, each) for each in SPLITS]
        bits = decide_bits(run, deep, records, options.bits, any_modality)
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        record_id_kind(out, options.split, options.ids)
        if options.split == "train":
            notes += record_patients(out / PATIENTS_CSV, files, patients)
        if bits is not None:
            record_bits(bits_file(out, options.split), bits, folders, deep.values())
        unannotated = sorted(files.keys() - found.annotations.keys() - found.refused.keys())
        for name in (*unannotated, *found.refused):
            remove(name, folders)
        jobs = [
            Job(name, files[name], folders, mask, row_of(names, files[name]), any_modality, bits)
            for name, mask in found.annotations.items()
        ]
        outcomes = list(show_progress(run(convert, jobs), len(jobs), "converting"))
    refused += [*found.refused.values(), *(each.refused for each in outcomes if each.refused)]
    return Report(outcomes, unannotated, refused, notes + found.notes)


def _find_masks(masks: MaskSource | None, files: dict[str, list[Path]], images: Path) -> Found:
    if masks is None:
        return Found.without_masks(files)
    try:
        return masks.find(files, images)
    except NothingMatchesError:
        # The cause, if they are what the competition's page gives.
        refuse_test_images(files)
        raise


def _open_masks(options: argparse.Namespace) -> MaskSource | None:
    """Open the masks that the command line names; None for a split without masks."""
    split = SPLITS[options.split]
    if options.masks:
        missing_empty = options.missing_mask == "empty"
        return FolderMasks.open(
            options.masks, mask_flags(options), options.images, options.ids, missing_empty
        )
    if split.rle is None:
        return None
    return CsvMasks.open(options.rle or options.out / split.rle, mask_flags(options))


def parse(args: list[str] | None) -> argparse.Namespace:
    """Parse the command line, for `prepare`."""
    parser = open_parser("python -m datasets.prepare", __doc__)
    add = parser.add_argument
    add(
        "--images",
        type=folder_to_read("--images", "a folder of images"),
        required=True,
        help="folder of DICOM, PNG or JPEG files, subfolders included",
    )
    add(
        "--rle",
        type=file_to_read("--rle", "a csv of masks, or folders of mask files to --masks"),
        help="csv of masks (default: OUT/train-rle.csv; for sample, OUT/train-rle-sample.csv)",
    )
    add(
        "--masks",
        type=folder_to_read("--masks", "folders of mask files, or a csv of masks to --rle"),
        nargs="+",
        action="extend",
        metavar="DIR",
        help="folders of mask files, instead of a csv; several are joined (default: none)",
    )
    add(
        "--missing_mask",
        choices=("unannotated", "empty"),
        default="unannotated",
        help="what an image without a file in MASKS is (default: unannotated, so that it is left "
        "out)",
    )
    add_mask_flags(add, "MASKS")
    add(
        "--names",
        type=file_to_read("--names", "a csv of file names and image ids"),
        help="csv of file names and image ids, of the images to convert (default: all images)",
    )
    add("--ids", choices=ID_KINDS, default="uid", help=f"{IDS_HELP} (default: uid)")
    add("--split", choices=SPLITS, default="train", help="which folders to write (default: train)")
    add(
        "--out",
        type=folder_to_write,
        default=Path("datasets/SIIM_data"),
        help="folder to write to (default: datasets/SIIM_data)",
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
        type=whole_number(0, WORKERS),
        default=usable_cores(),
        help="number of worker processes; 0 uses the main process (default: number of CPU cores)",
    )
    options = parser.parse_args(args)
    _check(options, parser)
    return options


def _check(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Refuse flags that contradict each other or have no effect."""
    given = [f"--{name}" for name in ("rle", "masks") if getattr(options, name)]
    if given and SPLITS[options.split].masks is None:
        parser.error(f"--split {options.split} has no masks; leave out {given[0]}")
    if len(given) > 1:
        parser.error("--rle and --masks: give one of them, a csv or folders of masks")
    unused = unused_mask_flags(options, folders=bool(options.masks))
    if options.missing_mask == "empty" and not options.masks:
        unused.append("--missing_mask")
    if unused:
        kind = "a csv (--rle)" if options.masks else "folders of masks (--masks)"
        parser.error(f"{', '.join(unused)}: only for {kind}; leave it out")
    if options.names and options.ids != "uid":
        parser.error(f"--names gives the ids; leave out --ids {options.ids}")


if __name__ == "__main__":
    sys.exit(main())
