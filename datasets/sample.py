"""Draw a small synthetic data set in Kaggle's file formats, to try everything without the real one.

    python -m datasets.sample --out datasets/demo_data [--count 120] [--size 1024] [--seed 0]

Takes about 10 seconds on two cores. The X-rays are drawn (datasets/tools/phantom.py): a network
trained on them knows nothing about patients. Three in five show a pneumothorax. Writes to OUT:

    dicom-images-train/<study>/<series>/<id>.dcm   with a JPEG inside, like the files of stage 1
    train-rle.csv    in the format of stage 1, one or more rows for each of COUNT images
    patients.csv     ImageId,PatientId; some patients have several images

There is one more DICOM than COUNT: image 0 is unannotated, with no row in either csv, like 37 of
Kaggle's images. Image i depends only on SEED, SIZE and i.
"""

import argparse
import io
import sys
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, JPEGBaseline8Bit, SecondaryCaptureImageStorage
from tqdm import tqdm

from datasets.formats import rle
from datasets.tools.phantom import draw_chest
from utils.commands.paths import folder_to_write
from utils.console import open_parser, whole_number
from utils.errors import InputError, cause_of, command
from utils.files import atomic_write
from utils.limits import WORKERS
from utils.parallel import open_processes, usable_cores

# pydicom's root: no hospital's identifiers start with it.
UID_ROOT = "1.2.826.0.1.3680043.8.498"


def sample_uid(seed: int, index: int) -> str:
    """Return the SOPInstanceUID of image `index`, which is also the stem of its file."""
    return f"{UID_ROOT}.{seed}.4.{index}"


def is_positive(index: int) -> bool:
    """Return whether image `index` has a pneumothorax, as three of any five consecutive ones do."""
    return index * 3 // 5 > (index - 1) * 3 // 5


def draw(seed: int, index: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw image `index` of the set.

    Returns:
        The image, [size,size] uint8, and its mask, [size,size] uint8 of 0 and 1.
    """
    return draw_chest(np.random.default_rng([seed, index]), size, is_positive(index))


def annotate(index: int, mask: np.ndarray) -> list[str]:
    """Encode a mask as the run-length texts of its csv rows.

    Every fourth positive has two rows, as if two findings had been outlined. Those of every eighth,
    starting with the first, overlap, which exposes code that adds rows instead of OR-ing them.

    Args:
        index: number of the image.
        mask: [H,W] uint8 of 0 and 1.

    Returns:
        One text per row: `gap length ...`, or `-1` for an empty mask.
    """
    earlier = (index - 1) * 3 // 5
    if not mask.any() or earlier % 4:
        return [rle.encode(mask)]
    rows = np.flatnonzero(mask.any(axis=1))
    middle = (rows[0] + rows[-1] + 1) // 2
    overlap = len(mask) // 32 if earlier % 8 == 0 else 0
    upper, lower = mask.copy(), mask.copy()
    upper[middle + overlap :] = 0
    lower[:middle] = 0
    return [rle.encode(upper), rle.encode(lower)]


@command
def main(args: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = _parser().parse_args(args)
    out = options.out
    try:
        _refuse_other_images(out, {sample_uid(options.seed, i) for i in range(options.count + 1)})
        out.mkdir(parents=True, exist_ok=True)
        texts = _write_images(out, options)
        _write_tables(out, options.seed, texts)
    except OSError as error:
        raise InputError(
            f"{out} cannot be written to ({cause_of(error)}); choose another --out"
        ) from error
    positives = sum(is_positive(index) for index in range(1, options.count + 1))
    print(
        f"{out}: {options.count} chest X-rays of {options.size}x{options.size}, {positives} of "
        "them with a pneumothorax, and one more that is unannotated. Next:\n"
        f"python -m datasets.prepare --images {out / 'dicom-images-train'} "
        f"--rle {out / 'train-rle.csv'} --out {out}"
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = open_parser("python -m datasets.sample", __doc__)
    parser.add_argument(
        "--out",
        type=folder_to_write,
        required=True,
        help="folder to write to; a sample of the same seed in it is replaced",
    )
    parser.add_argument(
        "--count",
        type=whole_number(2, 100_000),
        default=120,
        help="number of annotated images (default: 120)",
    )
    parser.add_argument(
        "--size",
        type=whole_number(96, 4096),
        default=1024,
        help="side of the images in pixels (default: 1024)",
    )
    parser.add_argument(
        "--seed",
        type=whole_number(0, 2**32 - 1),
        default=0,
        help="random seed of the drawings (default: 0)",
    )
    parser.add_argument(
        "--num_workers",
        type=whole_number(0, WORKERS),
        default=min(8, usable_cores()),
        help="number of worker processes; 0 uses the main process (default: number of CPU cores, at"
        " most 8)",
    )
    return parser


def _refuse_other_images(out: Path, expected: set[str]) -> None:
    """Refuse to mix real data with drawn images or to overwrite its csv files."""
    found = {path.stem for path in (out / "dicom-images-train").rglob("*.dcm")}
    for table in (out / "train-rle.csv", out / "patients.csv"):
        if table.exists():
            lines = table.read_text(encoding="utf-8", errors="replace").splitlines()
            found |= {line.split(",")[0] for line in lines[1:]}
    other = sorted(found - expected)
    if other:
        raise InputError(
            f"{out} already holds {len(other)} images of another set ({other[0]} ...): "
            "choose another --out, or remove that folder first"
        )


def _write_images(out: Path, options: argparse.Namespace) -> list[list[str]]:
    """Write all DICOMs and return the run-length texts of each image, in order."""
    work = partial(_write_image, out, options.seed, options.size)
    indices = range(options.count + 1)
    progress = partial(tqdm, total=len(indices), desc="drawing", unit="image")
    with open_processes(options.num_workers) as run:
        return list(progress(run(work, indices)))


def _write_image(out: Path, seed: int, size: int, index: int) -> list[str]:
    image, mask = draw(seed, index, size)
    dicom = _dicom(seed, index, image)
    folder = out / "dicom-images-train" / dicom.StudyInstanceUID / dicom.SeriesInstanceUID
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / f"{dicom.SOPInstanceUID}.dcm", flush=False) as temporary:
        dicom.save_as(temporary, enforce_file_format=True)
    return annotate(index, mask)


def _dicom(seed: int, index: int, image: np.ndarray) -> Dataset:
    """Wrap an image, [H,W] uint8, as a JPEG in a DICOM with the tags of Kaggle's files."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = UID(sample_uid(seed, index))
    meta.TransferSyntaxUID = JPEGBaseline8Bit
    dicom = Dataset()
    dicom.file_meta = meta
    dicom.SOPClassUID = SecondaryCaptureImageStorage
    dicom.SOPInstanceUID = sample_uid(seed, index)
    dicom.StudyInstanceUID = f"{UID_ROOT}.{seed}.2.{index}"
    dicom.SeriesInstanceUID = f"{UID_ROOT}.{seed}.3.{index}"
    dicom.Modality, dicom.ConversionType = "CR", "WSD"
    dicom.BodyPartExamined, dicom.ViewPosition = "CHEST", "PA"
    # Unique per image, as in Kaggle's files; only patients.csv tells which share a patient.
    dicom.PatientID = dicom.PatientName = f"synthetic-{seed}-{index}"
    dicom.Rows, dicom.Columns = image.shape
    dicom.SamplesPerPixel, dicom.PhotometricInterpretation = 1, "MONOCHROME2"
    dicom.BitsAllocated, dicom.BitsStored, dicom.HighBit = 8, 8, 7
    dicom.PixelRepresentation = 0
    dicom.LossyImageCompression, dicom.LossyImageCompressionMethod = "01", "ISO_10918_1"
    jpeg = io.BytesIO()
    Image.fromarray(image).save(jpeg, "JPEG", quality=90)
    dicom.PixelData = encapsulate([jpeg.getvalue()])
    return dicom


def _write_tables(out: Path, seed: int, texts: list[list[str]]) -> None:
    rows, patients = ["ImageId, EncodedPixels"], ["ImageId,PatientId"]
    for index in range(1, len(texts)):
        rows += [f"{sample_uid(seed, index)}, {text}" for text in texts[index]]
        patients.append(f"{sample_uid(seed, index)},{_patient(index):08d}")
    for name, lines in (("train-rle.csv", rows), ("patients.csv", patients)):
        with atomic_write(out / name, flush=False) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def _patient(index: int) -> int:
    """Return the patient of an image: five for every eight images, two of them with several."""
    return index // 8 * 5 + (1, 1, 2, 3, 3, 3, 4, 5)[index % 8]


if __name__ == "__main__":
    sys.exit(main())
