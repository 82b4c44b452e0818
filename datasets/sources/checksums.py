"""Checksums of a folder's files, stored when they are written and compared on request."""

import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from tqdm import tqdm

from utils.files import write_json
from utils.parallel import map_in_order

_CHUNK = 2**20


class Checksums:
    """The CRC-32 of each file of a folder, by file name, in its checksums.json.

    Args:
        folder: the folder.
    """

    def __init__(self, folder: Path):
        self.path = folder / "checksums.json"

    def read(self) -> dict[str, int]:
        """Return the stored checksums; none if they are missing or damaged."""
        try:
            stored = json.loads(self.path.read_bytes())
        except (OSError, ValueError):
            return {}
        usable = isinstance(stored, dict) and all(isinstance(v, int) for v in stored.values())
        return stored if usable else {}

    def add(self, checksums: dict[str, int]) -> None:
        """Store the checksums of further files."""
        write_json(self.path, self.read() | checksums)

    def differing(self) -> list[Path]:
        """Read every file that has a checksum, in threads, and return those that differ from it.

        Files that do not exist are left out: what is missing is built again.
        """
        stored = self.read()
        paths = [self.path.with_name(name) for name in stored]
        paths = [path for path in paths if path.exists()]
        found = map_in_order(_checksum_of, paths)
        bar = tqdm(found, "verifying the cache", len(paths), unit="file", disable=None)
        return [path for path, value in zip(paths, bar, strict=True) if value != stored[path.name]]


def checksum(parts: Iterable[bytes | memoryview]) -> int:
    """Return the CRC-32 of bytes that come in parts."""
    value = 0
    for part in parts:
        value = zlib.crc32(part, value)
    return value


def _checksum_of(path: Path) -> int | None:
    """Return the checksum of a file, None if it cannot be read."""
    try:
        return checksum(_chunks(path))
    except OSError:
        return None


def _chunks(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk
