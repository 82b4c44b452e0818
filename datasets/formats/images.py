"""Finds, names, reads and preprocesses images: the one place for training and prediction alike."""

import os
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from datasets.formats.dicom import dicom_size, grey_pixels, instance_uid, jpeg_frame, read_dicom
from datasets.formats.headers import image_header, is_complete
from utils.errors import InputError
from utils.limits import IMAGE_BYTES, read_bytes

SUFFIXES = (".dcm", ".jpeg", ".jpg", ".png")
# A file system allows 255; a temporary name adds a dot, a process number and a suffix.
LONGEST_ID = 200


def find_images(folder: str | Path) -> list[Path]:
    """List the .dcm, .jpg, .jpeg and .png files at any depth, sorted; hidden ones are passed over.

    Links to folders are followed.

    Raises:
        InputError: the folder is missing or cannot be listed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a folder; images were looked for there")
    found, seen = [], set()
    for root, folders, names in os.walk(folder, followlinks=True, onerror=_refuse_listing):
        real = os.path.realpath(root)
        # A link to a parent folder would otherwise never end.
        folders[:] = [] if real in seen else [name for name in folders if name[0] != "."]
        names = [] if real in seen else names
        seen.add(real)
        found += [Path(root, name) for name in names if _is_image_name(name)]
    return sorted(found)


def find_images_by_id(folder: Path, ids: Iterable[str]) -> dict[str, Path]:
    """Find the files of these images at any depth of a folder, with a progress bar.

    Raises:
        InputError: the folder is missing, has none of them or one of them twice, or the id of a
            file cannot be read.
    """
    wanted: set[str] = set(ids)
    found: dict[str, Path] = {}
    for path in tqdm(find_images(folder), "finding images", unit="image", disable=None):
        name = image_id(path)
        if name in wanted and found.setdefault(name, path) != path:
            raise InputError(f"{found[name]} and {path} are both {name}; give one folder of images")
    if not found:
        raise InputError(f"{folder}: has none of the {len(wanted)} images looked for")
    return found


def image_id(path: str | Path) -> str:
    """Name an image: the SOPInstanceUID of a DICOM, the stem of any other file.

    Raises:
        InputError: the file cannot be read, or the id could not be the name of a file.
    """
    path = Path(path)
    name = path.stem
    if path.suffix.lower() == ".dcm":
        name = instance_uid(path)
    usable = name.isprintable() and not set(name) & set("/\\") and name == name.strip()
    if not name or name[0] == "." or not usable or len(name.encode()) > LONGEST_ID:
        raise InputError(f"{path}: its image id {name[:LONGEST_ID]!r} is not a plain file name")
    return name


def read_image(path: str | Path) -> np.ndarray:
    """Read a .dcm, .jpg or .png as 8-bit grey.

    Colour becomes luminance, 16-bit PNG keeps its upper 8 bits (value // 256), transparency and
    EXIF orientation are ignored.

    Returns:
        [H,W] uint8.

    Raises:
        InputError: the file is missing, cut short or cannot be decoded.
    """
    path = Path(path)
    if path.suffix.lower() != ".dcm":
        return _decode(read_file(path), path)
    dataset = read_dicom(path)
    frame = jpeg_frame(dataset, path)
    return grey_pixels(dataset, path) if frame is None else _decode(frame, path)


def copyable_bytes(path: str | Path) -> bytes | None:
    """Give the image as a complete 8-bit grey JPEG or PNG file, where it is one already.

    Returns:
        The bytes of a grey 8-bit JPEG or PNG, or of the JPEG inside a DICOM; None where the image
        has another form and needs `read_image`.

    Raises:
        InputError: the file is missing, cut short or not an image.
    """
    path = Path(path)
    if path.suffix.lower() == ".dcm":
        data = jpeg_frame(read_dicom(path), path)
    else:
        data = read_file(path)
        if image_header(data, path)[0] != "L":
            data = None
    if data is None:
        return None
    if not is_complete(data):
        raise InputError(f"{path}: the image is cut short, or animated")
    return data


def read_mask(path: str | Path) -> np.ndarray:
    """Read a mask file: black is 0, its one other grey level is 1.

    Returns:
        [H,W] uint8 mask of 0 and 1.

    Raises:
        InputError: the file cannot be read or has further grey levels (a smoothed or lossy mask).
    """
    return binary_mask(read_image(path), path)


def binary_mask(grey: np.ndarray, path: str | Path) -> np.ndarray:
    """Take the pixels of a mask file, uint8 [H,W], as `read_mask` does.

    Args:
        grey: [H,W] uint8.
        path: the file, for errors.

    Returns:
        [H,W] uint8 mask of 0 and 1.

    Raises:
        InputError: it has further grey levels than black and one other.
    """
    mask = grey != 0
    if (grey[mask] != grey.max()).any():
        raise InputError(f"{path}: is not a mask; it has more grey levels than black and one other")
    return mask.astype(np.uint8)


def _is_image_name(name: str) -> bool:
    return name[0] != "." and os.path.splitext(name)[1].lower() in SUFFIXES


def _refuse_listing(error: OSError) -> None:
    raise InputError(f"{error.filename}: cannot be listed ({error.strerror})") from error


def read_file(path: Path) -> bytes:
    """Read an image file, of any form, as it is.

    Raises:
        InputError: it is missing, too large or no file.
    """
    try:
        if path.is_fifo():
            raise InputError(f"{path}: is a pipe, not a file")
        return read_bytes(path, IMAGE_BYTES)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _decode(data: bytes, path: Path) -> np.ndarray:
    if not is_complete(data):
        raise InputError(f"{path}: is cut short, animated, or neither a JPEG nor a PNG")
    image_header(data, path)
    flags = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        grey = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise InputError(f"{path}: cannot be decoded ({error.err})") from error
    if grey is None:
        raise InputError(f"{path}: cannot be decoded")
    return grey


def image_size(path: Path) -> tuple[int, int]:
    """Read height and width of an image, in pixels, without decoding it.

    Raises:
        InputError: the file cannot be read as an image.
    """
    if path.suffix.lower() == ".dcm":
        return dicom_size(read_dicom(path, pixels=False), path)
    return image_header(read_file(path), path)[1]
