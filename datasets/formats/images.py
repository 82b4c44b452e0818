"""Finding, identifying and reading image files, for training and prediction."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from datasets.formats.dicom import dicom_size, grey_pixels, instance_uid, jpeg_frame, read_dicom
from datasets.formats.headers import image_header
from datasets.formats.pixels import decode_image, luminance
from utils.errors import InputError
from utils.limits import IMAGE_BYTES, read_bytes

SUFFIXES = (".dcm", ".jpeg", ".jpg", ".png")
# File systems allow 255 bytes; a temporary name adds a dot, a process id and a suffix.
MAX_ID_BYTES = 200


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
    name = path.stem
    if path.suffix.lower() == ".dcm":
        name = instance_uid(read_dicom(path, pixels=False), path)
    _check_id(name, path)
    return name


def _check_id(name: str, path: Path) -> None:
    usable = name.isprintable() and not set(name) & set("/\\") and name == name.strip()
    if not name or name[0] == "." or not usable or len(name.encode()) > MAX_ID_BYTES:
        raise InputError(f"{path}: its image id {name[:MAX_ID_BYTES]!r} is not a plain file name")


def read_image(path: str | Path, any_modality: bool = False) -> np.ndarray:
    """Read a .dcm, .jpg or .png as 8-bit grey.

    Colour becomes luminance, 16-bit PNG keeps its upper 8 bits (value // 256), transparency and
    EXIF orientation are ignored.

    Args:
        path: the file.
        any_modality: accept a DICOM that is no X-ray.

    Returns:
        [H,W] uint8.

    Raises:
        InputError: the file is missing, truncated, damaged or no X-ray.
    """
    grey = luminance(read_values(path, any_modality))
    return (grey >> 8).astype(np.uint8) if grey.dtype == np.uint16 else grey


def read_values(path: str | Path, any_modality: bool = False) -> np.ndarray:
    """Read the values that a .jpg or .png stores, or a .dcm as 8-bit grey.

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
        return grey_pixels(dataset, path, any_modality)
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


def image_id_and_size(path: Path) -> tuple[str, tuple[int, int] | None]:
    """Return id, and height and width in pixels, of an image, without decoding it.

    Returns:
        The id and the size; None for a size that cannot be read, which decoding will report.

    Raises:
        InputError: see `image_id`.
    """
    dataset = read_dicom(path, pixels=False) if path.suffix.lower() == ".dcm" else None
    name = path.stem if dataset is None else instance_uid(dataset, path)
    _check_id(name, path)
    try:
        return name, image_size(path) if dataset is None else dicom_size(dataset, path)
    except InputError:
        return name, None


def image_size(path: Path) -> tuple[int, int]:
    """Return height and width of an image in pixels, without decoding it.

    Raises:
        InputError: the file cannot be read as an image.
    """
    if path.suffix.lower() == ".dcm":
        return dicom_size(read_dicom(path, pixels=False), path)
    return image_header(read_file(path), path)[1]
