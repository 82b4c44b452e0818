"""Converting one original image and its rows to an image file and a mask file for training."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from datasets.formats.annotations import RleRow, annotated_mask
from datasets.formats.headers import JPEG_START, image_header, is_complete
from datasets.formats.images import SUFFIXES, copyable_bytes, read_image
from utils.errors import InputError
from utils.files import atomic_write


class Job(NamedTuple):
    """One image to convert.

    Attributes:
        image_id: its id.
        paths: its files, several if it was copied.
        folders: to write image and mask to.
        rows: of its mask in the csv.
        csv: the csv.
        any_modality: accept a DICOM that is no X-ray.
        rle_size: height and width that the csv is for, if not those of the image.
        bits: bits that 16-bit images use; None if they are unknown.
    """

    image_id: str
    paths: list[Path]
    folders: list[Path]
    rows: Sequence[RleRow] = ()
    csv: Path | None = None
    any_modality: bool = False
    rle_size: tuple[int, int] | None = None
    bits: int | None = None


class Outcome(NamedTuple):
    """Result for one image; `refused` is the reason for refusing it, or empty."""

    written: bool = False
    positive: bool = False
    copies: int = 0
    refused: str = ""


def convert(job: Job) -> Outcome:
    """Write one image and its mask, atomically.

    An existing image is kept if it equals the file to copy or, where pixels are converted, if it is
    a complete PNG. The mask is always written. Existing files are removed if the image is refused,
    or if they have the same id in another format.
    """
    try:
        return _convert(job)
    except InputError as error:
        remove(job.image_id, job.folders)
        return Outcome(refused=f"{error} (image {job.image_id})")


def remove(name: str, folders: list[Path], keep: Path | None = None) -> None:
    """Remove the files of an image id in any format, except `keep`."""
    for path in (folder / f"{name}{suffix}" for folder in folders for suffix in SUFFIXES):
        if path != keep:
            path.unlink(missing_ok=True)


def _convert(job: Job) -> Outcome:
    images, *masks = job.folders
    path = _check_copies(job)
    data = copyable_bytes(path, job.any_modality)
    suffix = ".jpg" if data and data.startswith(JPEG_START) else ".png"
    target = images / f"{job.image_id}{suffix}"
    content = target.read_bytes() if target.is_file() else b""
    kept = is_complete(content) if data is None else content == data
    if not kept:
        content = _png(_read(path, job)) if data is None else data
    # The mask first, so that an image never exists without one.
    positive = bool(masks) and _write_mask(job, masks[0], image_header(content, target)[1])
    remove(job.image_id, [images], keep=target)
    if not kept:
        _write(target, content)
    return Outcome(not kept, positive, len(job.paths) - 1)


def _read(path: Path, job: Job) -> np.ndarray:
    return read_image(path, job.any_modality, job.bits)


def _check_copies(job: Job) -> Path:
    first, *others = job.paths
    for other in others:
        if not np.array_equal(_read(first, job), _read(other, job)):
            raise InputError(
                f"{first} and {other} have the same id but different pixels; remove one"
            )
    return first


def _write_mask(job: Job, folder: Path, shape: tuple[int, int]) -> bool:
    mask = annotated_mask(job.rows, *shape, job.csv, job.rle_size)
    positive = bool(mask.any())
    # The mask is decoded in column order; OpenCV transposes it ten times as fast as numpy.
    data = _png(cv2.transpose(mask.T) * 255) if positive else _empty_mask(*shape)
    _write(folder / f"{job.image_id}.png", data)
    return positive


@functools.lru_cache(maxsize=4)
def _empty_mask(height: int, width: int) -> bytes:
    return _png(np.zeros((height, width), dtype=np.uint8))


def _png(grey: np.ndarray) -> bytes:
    return cv2.imencode(".png", grey)[1].tobytes()


def _write(path: Path, data: bytes) -> None:
    with atomic_write(path, flush=False) as temporary:
        temporary.write_bytes(data)
