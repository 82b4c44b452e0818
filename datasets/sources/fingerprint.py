"""Fingerprints of files: cheap to take, and different for another image or mask."""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from datasets.sources.base import Sample
from utils.errors import InputError

_PROBED = 512
"""Bytes read from the middle and from the end of a file."""


class Probe(NamedTuple):
    """What is read of a file: its size, the time it was modified (ns), and some of its bytes.

    Another file of the same size differs in these bytes: a PNG ends in checksums of its pixels, and
    what follows a change in a JPEG is shifted. Reading all bytes would take longer than training
    should take to start.
    """

    size: int
    modified: int
    content: bytes


class Fingerprint(NamedTuple):
    """Hashes of an image file and of its mask file, equal for copies of these files."""

    image: str
    mask: str


def probe(path: Path) -> Probe:
    """Probe a file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            state = os.fstat(file.fileno())
            content = b""
            for offset in (state.st_size // 2, state.st_size - _PROBED):
                file.seek(max(0, offset))
                content += file.read(_PROBED)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    return Probe(state.st_size, state.st_mtime_ns, content)


def take_fingerprints(samples: dict[str, Sample]) -> dict[str, Fingerprint]:
    """Return the fingerprints of the files of every image, by image id.

    The time of a file is left out: copies of a data set have the same fingerprints.

    Raises:
        InputError: a file cannot be read.
    """
    return {
        name: Fingerprint(_hash(sample.image), _hash(sample.mask))
        for name, sample in samples.items()
    }


def _hash(path: Path) -> str:
    size, _, content = probe(path)
    return hashlib.sha256(f"{size}\0".encode() + content).hexdigest()[:16]
