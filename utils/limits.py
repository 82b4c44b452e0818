"""Limits for untrusted files and settings, so that none can exhaust memory or time.

All are far above what chest X-rays and their masks need. Larger files are refused, with their name,
before they are read or decoded. So is a file or folder that is not there.
"""

import os
import stat
from pathlib import Path

from utils.errors import InputError

PIXELS = 2**26
"""Pixels of an image according to its header: 8192x8192, four times the largest X-ray detectors."""
SIDE = 2**16 - 1
"""Longest side of an image, the largest that JPEG and DICOM can state. OpenCV reads and writes no
PNG with a side above a million."""
IMAGE_BYTES = 2**28
"""A DICOM, JPEG or PNG file: twice `PIXELS` at 16 bits, uncompressed."""
JPEG_SCANS = 100
"""Scans of a progressive JPEG. Encoders write about ten."""
TABLE_BYTES = 2**28
"""A csv file. Kaggle's largest is below 6 MB."""
TABLE_FIELDS = 2**22
"""Fields of a csv file, in all rows together."""
FIELD_CHARACTERS = 2**23
"""One field of a csv file: four times the run lengths of a 1024x1024 chessboard."""
ROWS_PER_IMAGE = 1000
"""Run-length rows of one image in a csv file. Kaggle's have up to 10."""
SETTINGS_BYTES = 2**16
"""A YAML or JSON file."""
LIST_BYTES = 2**24
"""A list of image ids."""
WORKERS = 256
"""Processes that load images."""
HISTOGRAM_BYTES = 2**30
"""The arrays of an oof.npz, unpacked: more than a quarter of a million images."""


def read_bytes(path: str | Path, max_bytes: int) -> bytes:
    """Read a file of at most `max_bytes` bytes.

    Raises:
        InputError: it is larger.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        state = os.fstat(file.fileno())
        check_file_size(path, state.st_size, max_bytes)
        # A pipe has no size, and a regular file may grow: one extra byte shows that it is larger.
        data = file.read(1 + (state.st_size if stat.S_ISREG(state.st_mode) else max_bytes))
    check_file_size(path, len(data), max_bytes)
    return data


def check_is_file(path: str | Path, what: str) -> None:
    """Refuse a path with no file, or with something else such as a folder.

    Args:
        path: the path.
        what: what the file is expected to be, such as checkpoint.

    Raises:
        InputError: it is no file.
    """
    if not Path(path).is_file():
        kind = ", which is not a file" if Path(path).exists() else ""
        raise InputError(f"no {what} at {path}{kind}")


def check_file(flag: str, path: str | Path, what: str) -> None:
    """Refuse a file that a flag names if it is missing or a folder; a pipe is as good as a file.

    Args:
        flag: such as --groups.
        path: its value.
        what: what the flag takes, such as a csv of masks.

    Raises:
        InputError: there is no file.
    """
    check_exists(flag, path, what)
    if Path(path).is_dir():
        raise InputError(f"{flag} {path}: is a folder; give {what}")


def check_folder(flag: str, path: str | Path, what: str) -> None:
    """Refuse a folder that a flag names if it is missing or a file; see `check_file`.

    Raises:
        InputError: there is no folder.
    """
    check_exists(flag, path, what)
    if not Path(path).is_dir():
        raise InputError(f"{flag} {path}: is not a folder; give {what}")


def check_exists(flag: str, path: str | Path, what: str) -> None:
    """Refuse a file or folder that a flag names if it is missing; see `check_file`.

    Raises:
        InputError: there is neither.
    """
    if not Path(path).exists():
        raise InputError(f"{flag} {path}: does not exist; give {what}")


def check_file_size(path: str | Path, size: int, max_bytes: int) -> None:
    """Refuse a file of more than `max_bytes` bytes.

    Raises:
        InputError: it is larger.
    """
    if size > max_bytes:
        raise InputError(f"{path}: is too large; the limit is {max_bytes:,} bytes")


def check_pixels(path: str | Path, height: int, width: int) -> None:
    """Refuse an image without pixels, with more than `PIXELS`, or with a side above `SIDE`.

    Raises:
        InputError: it has no pixels or too many.
    """
    if not (0 < height * width <= PIXELS and max(height, width) <= SIDE):
        raise InputError(
            f"{path}: its header says {width}x{height} pixels; the limit is 1 to {PIXELS:,} "
            f"pixels, at most {SIDE:,} on a side"
        )
