"""Finding, identifying and reading image files, for training and prediction."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydicom import Dataset
from tqdm import tqdm

from datasets.formats.dicom import (
    dicom_size,
    grey_pixels,
    has_unknown_depth,
    instance_uid,
    jpeg_frame,
    read_dicom,
)
from datasets.formats.headers import image_header, is_16_bit_png
from datasets.formats.pixels import check_depth, decode_image, luminance
from utils.errors import InputError
from utils.limits import IMAGE_BYTES, read_bytes

SUFFIXES = (".dcm", ".jpeg", ".jpg", ".png")
# File systems allow 255 bytes; a temporary name adds a dot, a process id and a suffix.
MAX_ID_BYTES = 200


class ImageIdentity(NamedTuple):
    """What the header of an image says.

    Attributes:
        id: its id.
        size: height and width in pixels; None if they cannot be read, which decoding will report.
        deep: whether it has 16-bit pixels and does not say how many of the bits it uses.
    """

    id: str
    size: tuple[int, int] | None
    deep: bool


def find_images(folder: str | Path) -> list[Path]:
    """List the .dcm, .jpg, .jpeg and .png files in a folder and its subfolders, sorted.

    Hidden files and folders are skipped, and links to folders are followed.

    Raises:
        InputError: the folder is missing or cannot be listed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a folder; expected a folder of images")
    found, seen = [], set()
    for root, folders, names in os.walk(folder, followlinks=True, onerror=_refuse_listing):
        real = os.path.realpath(root)
        # A link to a parent folder would otherwise recurse forever.
        folders[:] = [] if real in seen else [name for name in folders if name[0] != "."]
        names = [] if real in seen else names
        seen.add(real)
        found += [Path(root, name) for name in names if _is_image_name(name)]
    return sorted(found)


def find_images_by_id(folder: Path, ids: Iterable[str]) -> dict[str, Path]:
    """Find the files of images in a folder and its subfolders, with a progress bar.

    Raises:
        InputError: the folder is missing, has none of them or one of them twice, or the id of a
            file cannot be read.
    """
    wanted: set[str] = set(ids)
    found: dict[str, Path] = {}
    for path in tqdm(find_images(folder), "finding images", unit="image", disable=None):
        name = image_id(path)
        if name in wanted and found.setdefault(name, path) != path:
            raise InputError(f"{found[name]} and {path} are both image {name}; remove one")
    if not found:
        raise InputError(f"{folder}: has none of the {len(wanted)} images; choose another folder")
    return found


def image_id(path: str | Path) -> str:
    """Return the id of an image: the SOPInstanceUID of a DICOM, the stem of any other file.

    Raises:
        InputError: the file cannot be read, or the id is unusable as a file name.
    """
    path = Path(path)
    return _id_of(_read_header(path), path)


def _read_header(path: Path) -> Dataset | None:
    """Read a DICOM without its pixels; None for other files."""
    return read_dicom(path, pixels=False) if path.suffix.lower() == ".dcm" else None


def _id_of(dataset: Dataset | None, path: Path) -> str:
    name = path.stem if dataset is None else instance_uid(dataset, path)
    usable = name.isprintable() and not set(name) & set("/\\") and name == name.strip()
    if not name or name[0] == "." or not usable or len(name.encode()) > MAX_ID_BYTES:
        raise InputError(f"{path}: its image id {name[:MAX_ID_BYTES]!r} is not a plain file name")
    return name


def read_image(path: str | Path, any_modality: bool = False, bits: int | None = 16) -> np.ndarray:
    """Read a .dcm, .jpg or .png as 8-bit grey.

    Colour becomes luminance, a 16-bit PNG value >> (bits - 8), transparency and EXIF orientation
    are ignored.

    Args:
        path: the file.
        any_modality: accept a DICOM that is no X-ray.
        bits: bits that a 16-bit image uses, see `depth`; None refuses such an image.

    Returns:
        [H,W] uint8.

    Raises:
        InputError: the file is missing, truncated, damaged or no X-ray, or has larger values.
    """
    grey = luminance(read_values(path, any_modality, bits))
    if grey.dtype == np.uint16:
        return (grey >> (check_depth(grey, bits, Path(path)) - 8)).astype(np.uint8)
    return grey


def read_values(path: str | Path, any_modality: bool = False, bits: int | None = 16) -> np.ndarray:
    """Read the values that a .jpg or .png stores, or a .dcm as 8-bit grey.

    The arguments are those of `read_image`; `bits` is for a .dcm.

    Returns:
        [H,W] grey or [H,W,3 or 4] BGR(A), uint8 or uint16, see `pixels.decode_image`.

    Raises:
        InputError: see `read_image`.
    """
    path = Path(path)
    if path.suffix.lower() != ".dcm":
        return decode_image(read_file(path), path)
    dataset = read_dicom(path)
    frame = jpeg_frame(dataset, path, any_modality)
    if frame is None:
        return grey_pixels(dataset, path, any_modality, bits)
    return decode_image(frame, path)


def copyable_bytes(path: str | Path, any_modality: bool = False) -> bytes | None:
    """Return the image as an 8-bit grey JPEG or PNG file, if it needs no conversion.

    The file is decoded once, so that damaged data is found before it is copied.

    Args:
        path: the file.
        any_modality: accept a DICOM that is no X-ray.

    Returns:
        The bytes of an 8-bit grey JPEG or PNG, or of the JPEG inside a DICOM; None if the image
        must be decoded with `read_image`.

    Raises:
        InputError: the file is missing, truncated, damaged or not an image.
    """
    path = Path(path)
    if path.suffix.lower() == ".dcm":
        data = jpeg_frame(read_dicom(path), path, any_modality)
    else:
        data = read_file(path)
        if image_header(data, path)[0] != "L":
            data = None
    if data is None:
        return None
    decode_image(data, path)
    return data


def _is_image_name(name: str) -> bool:
    return name[0] != "." and os.path.splitext(name)[1].lower() in SUFFIXES


def _refuse_listing(error: OSError) -> None:
    raise InputError(f"{error.filename}: cannot be listed ({error.strerror})") from error


def read_file(path: Path) -> bytes:
    """Return the bytes of an image file.

    Raises:
        InputError: it is missing, too large or not a file.
    """
    try:
        if path.is_fifo():
            raise InputError(f"{path}: is a pipe, not a file")
        return read_bytes(path, IMAGE_BYTES)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def identify(path: Path) -> ImageIdentity:
    """Read id, size and kind of an image, without decoding it.

    Raises:
        InputError: see `image_id`.
    """
    dataset = _read_header(path)
    name = _id_of(dataset, path)
    try:
        if dataset is not None:
            size, deep = dicom_size(dataset, path), has_unknown_depth(dataset, path)
            return ImageIdentity(name, size, deep)
        data = read_file(path)
        return ImageIdentity(name, image_header(data, path)[1], is_16_bit_png(data))
    except InputError:
        return ImageIdentity(name, None, False)


def image_size(path: Path) -> tuple[int, int]:
    """Return height and width of an image in pixels, without decoding it.

    Raises:
        InputError: the file cannot be read as an image.
    """
    dataset = _read_header(path)
    if dataset is not None:
        return dicom_size(dataset, path)
    return image_header(read_file(path), path)[1]
