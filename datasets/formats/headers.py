"""Reading the headers of JPEG and PNG files without decoding them."""

import io
import struct
import warnings
from pathlib import Path

from PIL import Image

from datasets.formats.finding import is_dicom
from utils.errors import InputError
from utils.limits import check_pixels

# Its warnings do not name the file, and what cannot be read is refused with the name.
warnings.filterwarnings("ignore", module="PIL")

JPEG_START, JPEG_SCAN, JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
PNG_START, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND"
_JPEG2000_START = b"\xff\x4f\xff\x51"
PNG_ANIMATION = (b"acTL", b"fcTL", b"fdAT")


def image_header(data: bytes, path: Path) -> tuple[str, tuple[int, int]]:
    """Read the mode and size of a JPEG or PNG without decoding it.

    Returns:
        Pillow's mode (`L` is 8-bit grey) and (height, width) in pixels.

    Raises:
        InputError: the bytes are neither a JPEG nor a PNG, or have too many pixels.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            mode, height, width = image.mode, image.height, image.width
    except Image.DecompressionBombError as error:
        raise InputError(f"{path}: has too many pixels ({error})") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{path}: is neither a JPEG nor a PNG") from error
    check_pixels(path, height, width)
    return mode, (height, width)


def is_16_bit_png(data: bytes) -> bool:
    """Return whether a PNG has 16 bits, which Pillow's mode does not say of colour images."""
    return data.startswith(PNG_START) and data[24:25] == b"\x10"


def is_complete(data: bytes) -> bool:
    """Return whether a JPEG or single-image PNG is complete, without decoding it."""
    if data.startswith(JPEG_START):
        # An embedded thumbnail has an end marker too, but comes before the last scan.
        return data.rfind(JPEG_END) > data.rfind(JPEG_SCAN) > 0
    return data.startswith(PNG_START) and _ends_as_png(data)


def palette_indices_differ(path: Path) -> bool:
    """Return whether a file is a palette PNG with more than one number of a colour.

    The file has to be one that was decoded before.
    """
    if is_dicom(path):
        return False
    with Image.open(path) as image:
        if image.mode != "P":
            return False
        low, high = image.getextrema()
        return low != high


def count_jpeg_scans(data: bytes) -> int:
    """Count the scans of a JPEG: one, some tens if it is progressive, thousands in an attack.

    Each scan costs a pass over the whole image. A marker within metadata is counted too.
    """
    return data.count(JPEG_SCAN)


def jpeg2000_size(data: bytes, path: Path) -> tuple[int, int]:
    """Read height and width of JPEG 2000 data, bare or in boxes (ISO/IEC 15444-1, A.5.1 and I.4).

    Raises:
        InputError: it has none.
    """
    start = 0 if data.startswith(_JPEG2000_START) else _find_codestream(data)
    if not data.startswith(_JPEG2000_START, start) or len(data) < start + 24:
        raise InputError(f"{path}: its JPEG 2000 data is damaged; get the file anew")
    right, bottom, left, top = struct.unpack(">IIII", data[start + 8 : start + 24])
    return bottom - top, right - left


def _find_codestream(data: bytes) -> int:
    # Box by box, because another box could contain the start of a smaller codestream.
    start = 0
    while start + 16 <= len(data):
        length, kind, long_length = struct.unpack(">I4sQ", data[start : start + 16])
        if kind == b"jp2c":
            return start + (16 if length == 1 else 8)
        start += max(long_length if length == 1 else length, 8)
    return start


def _ends_as_png(data: bytes) -> bool:
    # Chunk by chunk, because OpenCV allocates the bytes that a chunk claims to have, up to 2 GiB,
    # and a damaged animation can crash the process (seen in 5.0).
    position, kind = len(PNG_START), b""
    while kind != PNG_END and position + 12 <= len(data):
        kind = data[position + 4 : position + 8]
        if kind in PNG_ANIMATION:
            return False
        position += 12 + int.from_bytes(data[position : position + 4], "big")
    return kind == PNG_END and position <= len(data)
