"""How many of their bits 16-bit images use: one depth for all images of a folder.

A 16-bit file may hold 8, 10 or 12 bits and does not say so. A range per image would give equal
tissue different greys in two images, so the depth is the fewest bits that hold the largest value of
the whole folder. It is recorded with prepared images and with every run trained on them.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from datasets.formats.dicom import largest_pixel, read_dicom
from datasets.formats.finding import is_dicom
from datasets.formats.images import identify, read_values
from datasets.formats.pixels import luminance
from utils.errors import InputError
from utils.files import write_json
from utils.limits import SETTINGS_BYTES, read_bytes

DEPTHS = (8, 10, 12, 16)
"""Bits that detectors and exporters use."""


class Depth(NamedTuple):
    """Bits to read 16-bit images with, their number, and the largest of their values."""

    bits: int
    images: int
    largest: int

    def describe(self) -> str:
        """Return a line to print."""
        return (
            f"16-bit images: {self.images:,}, largest value {self.largest:,}, read as {self.bits} "
            "bits (--bits to change)"
        )


def largest_value(path: Path, any_modality: bool = False) -> int | None:
    """Return the largest grey value that a 16-bit image stores.

    Returns:
        The value; None if the file cannot be used, which reading it as an image will report.
    """
    try:
        if is_dicom(path):
            return largest_pixel(read_dicom(path), path, any_modality)
        return int(luminance(read_values(path)).max())
    except InputError:
        return None


def choose_depth(largest: Iterable[int | None], bits: int | None = None) -> Depth | None:
    """Choose one depth for all 16-bit images of a folder.

    Args:
        largest: `largest_value` of each image.
        bits: the depth that was asked for; None chooses the fewest bits that hold every value.

    Returns:
        The depth; None if no image can be used.
    """
    values = [value for value in largest if value is not None]
    if not values:
        return None
    fewest = next(depth for depth in DEPTHS if max(values) < 2**depth)
    return Depth(bits or fewest, len(values), max(values))


def common_bits(paths: Iterable[Path]) -> int | None:
    """Return one depth to look at all of these images with; None if none has 16 bits."""
    depth = choose_depth(largest_value(path, True) for path in paths if identify(path).deep)
    return None if depth is None else depth.bits


def bits_file(folder: str | Path, split: str = "train") -> Path:
    """Return the path of the record in a folder of prepared images, or in that of a run."""
    return Path(folder) / f"{split}_bits.json"


def read_bits(path: Path) -> int | None:
    """Read a record of the depth; None if there is none.

    Raises:
        InputError: the file is damaged.
    """
    try:
        bits = json.loads(read_bytes(path, SETTINGS_BYTES))["bits"]
    except FileNotFoundError:
        return None
    # RecursionError: thousands of nested brackets.
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as the depth of images: {error!r}") from error
    if type(bits) is not int or bits not in DEPTHS:
        raise InputError(f"{path}: bits {bits!r}: must be one of {', '.join(map(str, DEPTHS))}")
    return bits


def write_bits(path: Path, bits: int) -> None:
    """Record the depth as JSON."""
    write_json(path, {"bits": bits})
