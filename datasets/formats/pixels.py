"""Decoding JPEG and PNG files strictly: damage that shows is refused, not filled in."""

from pathlib import Path

import cv2
import numpy as np
import simplejpeg

from datasets.formats.headers import (
    JPEG_START,
    count_jpeg_scans,
    image_header,
    is_complete,
)
from utils.errors import InputError
from utils.limits import JPEG_SCANS


def decode_image(data: bytes, path: Path) -> np.ndarray:
    """Decode a JPEG or PNG to the values it stores.

    Args:
        data: the file's bytes.
        path: the file, for errors.

    Returns:
        [H,W] grey or [H,W,3 or 4] BGR(A), uint8 or uint16. A JPEG is returned as its luminance.

    Raises:
        InputError: the bytes are truncated, damaged, animated, too large, or no JPEG or PNG.
    """
    if not is_complete(data):
        raise InputError(f"{path}: is truncated, animated, or neither a JPEG nor a PNG")
    size = image_header(data, path)[1]
    values = _decode_jpeg(data, path) if data.startswith(JPEG_START) else _decode_png(data, path)
    if values.shape[:2] != size:
        raise InputError(
            f"{path}: its header says {size[1]}x{size[0]} pixels, its data has "
            f"{values.shape[1]}x{values.shape[0]}"
        )
    return values


def luminance(values: np.ndarray) -> np.ndarray:
    """Convert stored values, [H,W] or [H,W,3 or 4] BGR(A), to grey [H,W] of the same dtype.

    ITU-R BT.601 on the values as they are stored, whatever a PNG's gamma chunks say; transparency
    is ignored.
    """
    if values.ndim == 2:
        return values
    return cv2.cvtColor(np.ascontiguousarray(values[..., :3]), cv2.COLOR_BGR2GRAY)


def check_depth(values: np.ndarray, bits: int | None, path: Path) -> int:
    """Return `bits` if all values of a 16-bit image fit into that many.

    Raises:
        InputError: they do not, or the depth is unknown (None).
    """
    if bits is None:
        raise InputError(
            f"{path}: has 16-bit pixels, whose depth is not known here. Convert the whole folder "
            "to 8 bits with python -m datasets.prepare (--split test needs no csv)"
        )
    largest = int(values.max())
    if largest >= 2**bits:
        raise InputError(
            f"{path}: has the value {largest:,}, which {bits} bits cannot hold; read all images "
            "with a larger --bits"
        )
    return bits


def _decode_jpeg(data: bytes, path: Path) -> np.ndarray:
    scans = count_jpeg_scans(data)
    if scans > JPEG_SCANS:
        raise InputError(f"{path}: a JPEG of {scans:,} scans; the limit is {JPEG_SCANS}")
    try:
        # OpenCV and Pillow return damaged data as success, with grey filler.
        return simplejpeg.decode_jpeg(data, "GRAY", strict=True)[..., 0]
    except ValueError as error:
        raise InputError(
            f"{path}: its JPEG data is damaged ({error}); get the file anew"
        ) from error


def _decode_png(data: bytes, path: Path) -> np.ndarray:
    try:
        values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise InputError(f"{path}: cannot be decoded ({error.err})") from error
    if values is None:
        raise InputError(f"{path}: its PNG data is damaged; get the file anew")
    return values
