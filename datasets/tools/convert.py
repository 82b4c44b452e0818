"""Converting one original image and its annotation to an image file and a mask file."""

import functools
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from datasets.annotations.kinds import NO_CHANGES, Annotation, Changes
from datasets.annotations.names import Named
from datasets.formats.finding import SUFFIXES
from datasets.formats.headers import JPEG_START, image_header
from datasets.formats.ids import PATH_HINT
from datasets.formats.images import copyable_bytes, read_image
from datasets.formats.pixels import decode_image
from utils.errors import InputError
from utils.files import atomic_write


class Job(NamedTuple):
    """One image to convert.

    Attributes:
        image_id: its id.
        paths: its files, several if it was copied.
        folders: to write image and mask to; one folder for an image without a mask.
        annotation: says what its mask is.
        named: its row in a table of names, if there is one.
        any_modality: accept a DICOM that is no X-ray.
        bits: bits that 16-bit images use; None if they are unknown.
    """

    image_id: str
    paths: list[Path]
    folders: list[Path]
    annotation: Annotation | None = None
    named: Named | None = None
    any_modality: bool = False
    bits: int | None = None


class Outcome(NamedTuple):
    """Result for one image; `refused` is the reason for refusing it, or empty."""

    written: bool = False
    positive: bool = False
    copies: int = 0
    changes: Changes = NO_CHANGES
    refused: str = ""


def convert(job: Job) -> Outcome:
    """Write one image and its mask, atomically.

    An existing image is kept if it equals the file to copy or, where pixels are converted, if it
    has the same pixels. The mask is always written. Existing files are removed if the image is
    refused, or if they have the same id in another format.
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
    images, changes, positive = job.folders[0], NO_CHANGES, False
    path = _check_copies(job)
    data = copyable_bytes(path, job.any_modality)
    suffix = ".jpg" if data and data.startswith(JPEG_START) else ".png"
    target = images / f"{job.image_id}{suffix}"
    content = target.read_bytes() if target.is_file() else b""
    if data is None:
        grey = _read(path, job)
        data = content if _has_pixels(content, grey, target) else _png(grey)
    kept = content == data
    # The mask first, so that an image never exists without one.
    if job.annotation is not None:
        positive, changes = _write_mask(job, job.annotation, image_header(data, target)[1])
    remove(job.image_id, [images], keep=target)
    if not kept:
        _write(target, data)
    return Outcome(not kept, positive, len(job.paths) - 1, changes)


def _read(path: Path, job: Job) -> np.ndarray:
    return read_image(path, job.any_modality, job.bits)


def _has_pixels(content: bytes, grey: np.ndarray, path: Path) -> bool:
    """Return whether the content of an image file decodes to [H,W] uint8 `grey`."""
    # Pixels, not bytes: another version of OpenCV may compress them otherwise.
    try:
        return np.array_equal(decode_image(content, path), grey)
    except InputError:
        return False


def _check_copies(job: Job) -> Path:
    first, *others = job.paths
    for other in others:
        if not np.array_equal(_read(first, job), _read(other, job)):
            raise InputError(
                f"{first} and {other} have the same id but different pixels; remove one, or, "
                f"{PATH_HINT}"
            )
    return first


def _write_mask(job: Job, annotation: Annotation, shape: tuple[int, int]) -> tuple[bool, Changes]:
    mask, changes = annotation.draw(*shape)
    positive = bool(mask.any())
    if job.named is not None and job.named.has_mask not in (None, positive):
        raise InputError(
            f"{job.named.source}: says that there is {'no' if positive else 'a'} mask, but "
            f"{annotation.describe()} has {'one' if positive else 'none'}; correct one of the two"
        )
    # Run lengths are decoded in column order; OpenCV transposes ten times as fast as numpy.
    rows = mask if mask.flags.c_contiguous else cv2.transpose(mask.T)
    data = _png(rows * 255) if positive else _empty_mask(*shape)
    _write(job.folders[1] / f"{job.image_id}.png", data)
    return positive, changes


@functools.lru_cache(maxsize=4)
def _empty_mask(height: int, width: int) -> bytes:
    return _png(np.zeros((height, width), dtype=np.uint8))


def _png(grey: np.ndarray) -> bytes:
    return cv2.imencode(".png", grey)[1].tobytes()


def _write(path: Path, data: bytes) -> None:
    with atomic_write(path, flush=False) as temporary:
        temporary.write_bytes(data)
