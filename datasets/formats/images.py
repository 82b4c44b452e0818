"""Finding, identifying and reading image files, for training and prediction."""

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
        name = instance_uid(path)
    usable = name.isprintable() and not set(name) & set("/\\") and name == name.strip()
    if not name or name[0] == "." or not usable or len(name.encode()) > MAX_ID_BYTES:
        raise InputError(f"{path}: its image id {name[:MAX_ID_BYTES]!r} is not a plain file name")
    return name


def read_image(path: str | Path) -> np.ndarray:
    """Read a .dcm, .jpg or .png as 8-bit grey.

    Colour becomes luminance, 16-bit PNG keeps its upper 8 bits (value // 256), transparency and
    EXIF orientation are ignored.

    Returns:
        [H,W] uint8.

    Raises:
        InputError: the file is missing, truncated or cannot be decoded.
    """
    path = Path(path)
    if path.suffix.lower() != ".dcm":
        return _decode(read_file(path), path)
    dataset = read_dicom(path)
    frame = jpeg_frame(dataset, path)
    return grey_pixels(dataset, path) if frame is None else _decode(frame, path)


def copyable_bytes(path: str | Path) -> bytes | None:
    """Return the image as an 8-bit grey JPEG or PNG file, if that takes no conversion.

    Returns:
        The bytes of an 8-bit grey JPEG or PNG, or of the JPEG inside a DICOM; None if the image
        must be decoded with `read_image`.

    Raises:
        InputError: the file is missing, truncated or not an image.
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
        raise InputError(f"{path}: is truncated or animated")
    return data


def read_mask(path: str | Path) -> np.ndarray:
    """Read a mask file: black is 0, the one other grey level is 1.

    Returns:
        [H,W] uint8 mask of 0 and 1.

    Raises:
        InputError: the file cannot be read or has more grey levels (a smoothed or lossy mask).
    """
    return binary_mask(read_image(path), path)


def binary_mask(grey: np.ndarray, path: str | Path) -> np.ndarray:
    """Convert the decoded pixels of a mask file to 0 and 1, as `read_mask` does.

    Args:
        grey: [H,W] uint8.
        path: the file, for errors.

    Returns:
        [H,W] uint8 mask of 0 and 1.

    Raises:
        InputError: there are more grey levels than black and one other.
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


def _decode(data: bytes, path: Path) -> np.ndarray:
    if not is_complete(data):
        raise InputError(f"{path}: is truncated, animated, or neither a JPEG nor a PNG")
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
    """Return height and width of an image in pixels, without decoding it.

    Raises:
        InputError: the file cannot be read as an image.
    """
    if path.suffix.lower() == ".dcm":
        return dicom_size(read_dicom(path, pixels=False), path)
    return image_header(read_file(path), path)[1]
