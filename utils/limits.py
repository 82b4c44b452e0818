"""How much of a file that others wrote is taken in, so that none can fill memory or time.

All are far above what chest X-rays and their masks need; a file above them is refused by name,
before it is read or decoded.
"""

import os
import stat
from pathlib import Path

from utils.errors import InputError

PIXELS = 2**26
"""Of an image, as its header says: 8192x8192. The largest X-ray detectors have a quarter."""
IMAGE_BYTES = 2**28
"""Of a DICOM, JPEG or PNG file: the most pixels at 16 bits, uncompressed, are half."""
TABLE_BYTES = 2**28
"""Of a csv file. Kaggle's largest is below 6 MB."""
TABLE_FIELDS = 2**22
"""Of a csv file, all rows together."""
FIELD_CHARACTERS = 2**23
"""Of one field of a csv file: the run lengths of a 1024x1024 chessboard take a quarter."""
ROWS_PER_IMAGE = 1000
"""Of run lengths in a csv file. Kaggle's have up to 10."""
SETTINGS_BYTES = 2**16
"""Of a YAML or JSON file."""
LIST_BYTES = 2**24
"""Of a list of image ids."""
HISTOGRAM_BYTES = 2**30
"""Of the arrays of an oof.npz once they are unpacked: a quarter of a million images and more."""


def read_bytes(path: str | Path, most: int) -> bytes:
    """Read a file that has no more than `most` bytes.

    Raises:
        InputError: it has more.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        state = os.fstat(file.fileno())
        check_size(path, state.st_size, most)
        # A pipe does not say how much will come.
        data = file.read(1 + (state.st_size if stat.S_ISREG(state.st_mode) else most))
    check_size(path, len(data), most)
    return data


def check_size(path: str | Path, size: int, most: int) -> None:
    """Refuse a file of more than `most` bytes.

    Raises:
        InputError: it has more.
    """
    if size > most:
        raise InputError(f"{path}: is too large; at most {most:,} bytes are read")


def check_pixels(path: str | Path, height: int, width: int) -> None:
    """Refuse an image of no pixels, or of more than `PIXELS`.

    Raises:
        InputError: it has none or too many.
    """
    if not 0 < height * width <= PIXELS:
        raise InputError(
            f"{path}: says it has {width}x{height} pixels; images of 1 to {PIXELS:,} are read"
        )
