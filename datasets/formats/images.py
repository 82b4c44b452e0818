"""Identifying and reading image files, for training and prediction."""

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
    patient_id,
    read_dicom,
)
from datasets.formats.finding import find_images, is_dicom
from datasets.formats.headers import image_header, is_16_bit_png
from datasets.formats.ids import IdKind, IdRule, check_id
from datasets.formats.pixels import check_depth, decode_image, luminance
from utils.errors import InputError
from utils.limits import IMAGE_BYTES, read_bytes

BY_UID = IdRule()


class ImageIdentity(NamedTuple):
    """What the header of an image says.

    Attributes:
        id: its id.
        size: height and width in pixels; None if they cannot be read, which decoding will report.
        deep: whether it has 16-bit pixels and does not say how many of the bits it uses.
        patient: the PatientID of a DICOM; empty if there is none.
    """

    id: str
    size: tuple[int, int] | None
    deep: bool
    patient: str = ""


def find_images_by_id(folder: Path, ids: Iterable[str], kind: IdKind = "uid") -> dict[str, Path]:
    """Find the files of images in a folder and its subfolders, with a progress bar.

    Args:
        folder: the folder.
        ids: the images.
        kind: how files get their ids.

    Raises:
        InputError: the folder is missing, has none of them or one of them twice, or the id of a
            file cannot be read.
    """
    wanted: set[str] = set(ids)
    found: dict[str, Path] = {}
    name, paths = "", find_images(folder)
    rule = IdRule.of_folder(kind, folder, paths)
    for path in tqdm(paths, "finding images", unit="image", disable=None):
        name = image_id(path, rule)
        if name in wanted and found.setdefault(name, path) != path:
            raise InputError(f"{found[name]} and {path} are both image {name}; remove one")
    if not found:
        raise InputError(
            f"{folder}: has none of the {len(wanted)} images, such as {min(wanted, default='none')}"
            + (f", but images such as {name}" if name else "")
            + "; choose another folder or --ids"
        )
    return found


def image_id(path: str | Path, rule: IdRule = BY_UID) -> str:
    """Return the id of an image.

    Raises:
        InputError: the file cannot be read, or the id is unusable as a file name.
    """
    path = Path(path)
    return _id_of(_read_header(path) if rule.kind == "uid" else None, path, rule)


def _read_header(path: Path) -> Dataset | None:
    """Read a DICOM without its pixels; None for other files."""
    return read_dicom(path, pixels=False) if is_dicom(path) else None


def _id_of(dataset: Dataset | None, path: Path, rule: IdRule) -> str:
    uid = instance_uid(dataset, path) if dataset is not None and rule.kind == "uid" else ""
    return check_id(uid or rule.name(path), path)


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
    if not is_dicom(path):
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
    if is_dicom(path):
        data = jpeg_frame(read_dicom(path), path, any_modality)
    else:
        data = read_file(path)
        if image_header(data, path)[0] != "L":
            data = None
    if data is None:
        return None
    decode_image(data, path)
    return data


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


def identify(path: Path, rule: IdRule = BY_UID) -> ImageIdentity:
    """Read id, size and kind of an image, without decoding it.

    Raises:
        InputError: see `image_id`.
    """
    dataset = _read_header(path)
    name = _id_of(dataset, path, rule)
    try:
        if dataset is not None:
            size, deep = dicom_size(dataset, path), has_unknown_depth(dataset, path)
            return ImageIdentity(name, size, deep, patient_id(dataset, path))
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
