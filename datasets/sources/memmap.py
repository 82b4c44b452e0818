"""Rows of bytes in a file: written one after another, read through a memory map."""

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from utils.files import atomic_write


class MappedRows:
    """A file of uint8 rows, `rows[i]` -> read-only view of its bytes.

    The file is mapped when it is first read, once in each process: what travels to a loader's
    worker is its name, and its pages are shared by all processes.

    Args:
        path: the file.
        shape: of the whole; the first axis counts the rows.
    """

    def __init__(self, path: Path, shape: tuple[int, ...]):
        self.path = path
        self.shape = shape
        self._map: np.ndarray | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the whole file."""
        return int(np.prod(self.shape, dtype=np.int64))

    def is_complete(self) -> bool:
        """Say whether the file is there, as long as the shape says."""
        return self.path.exists() and self.path.stat().st_size == self.nbytes

    def __getitem__(self, rows: int | slice) -> np.ndarray:
        if self._map is None:
            self._map = np.asarray(np.memmap(self.path, np.uint8, mode="r", shape=self.shape))
        return self._map[rows]

    def __getstate__(self) -> dict:
        return vars(self) | {"_map": None}


class PackedMasks:
    """Masks of any sizes, eight pixels a byte: `masks[i]` -> [H,W] uint8 of 0 and 1.

    Args:
        path: the file; every mask begins at a byte of its own.
        shapes: [N,2] int64, height and width of each.
    """

    def __init__(self, path: Path, shapes: np.ndarray):
        self.shapes = shapes
        self._ends = np.cumsum(-(-shapes.prod(axis=1) // 8))
        self.rows = MappedRows(path, (int(self._ends[-1]),))

    def __getitem__(self, position: int) -> np.ndarray:
        start = self._ends[position - 1] if position else 0
        height, width = self.shapes[position].tolist()
        return unpack(self.rows[start : self._ends[position]], (height, width))


def unpack(bits: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Undo numpy.packbits: uint8 bytes -> [H,W] uint8 mask of 0 and 1."""
    return np.unpackbits(bits, count=shape[0] * shape[1]).reshape(shape)


def write_rows(paths: list[Path], rows: Iterable[list[np.ndarray]]) -> None:
    """Write files that are there only once all are whole.

    They are written, not mapped: a full disk is then an OSError, where a map would end the process.

    Args:
        paths: the files.
        rows: each holds one uint8 array for every file.
    """
    with ExitStack() as stack:
        files = [
            stack.enter_context(open(stack.enter_context(atomic_write(path)), "wb"))
            for path in paths
        ]
        for row in rows:
            for file, array in zip(files, row, strict=True):
                file.write(array.data)
