"""Reading the headers of JPEG and PNG files without decoding them."""

import io
from pathlib import Path

from PIL import Image

from utils.errors import InputError
from utils.limits import check_pixels

JPEG_START, JPEG_SCAN, JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
PNG_START, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND"
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


def is_complete(data: bytes) -> bool:
    """Return whether a JPEG or single-image PNG is complete, without decoding it."""
    if data.startswith(JPEG_START):
        # An embedded thumbnail has an end marker too, but comes before the last scan.
        return data.rfind(JPEG_END) > data.rfind(JPEG_SCAN) > 0
    return data.startswith(PNG_START) and _ends_as_png(data)


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
