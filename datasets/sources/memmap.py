"""Rows of bytes in a file: written sequentially, read through a memory map."""

import zlib
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from utils.errors import InputError
from utils.files import atomic_write


class MappedRows:
    """A file of uint8 rows: `rows[i]` -> read-only view of its bytes.

    The file is mapped at the first access, once per process: only its path is sent to a loader's
    worker, and all processes share its pages.

    Args:
        path: the file.
        shape: shape of all rows together; the first axis is the row.
    """

    def __init__(self, path: Path, shape: tuple[int, ...]):
        self.path = path
        self.shape = shape
        self._map: np.ndarray | None = None

    @property
    def nbytes(self) -> int:
        """Size of the complete file in bytes."""
        return int(np.prod(self.shape, dtype=np.int64))

    def is_complete(self) -> bool:
        """Return whether the file exists and has the size that `shape` implies."""
        return self.path.exists() and self.path.stat().st_size == self.nbytes

    def check(self) -> None:
        """Refuse a file that is missing or has another size.

        Raises:
            InputError: it is not complete.
        """
        if not self.is_complete():
            found = f"{self.path.stat().st_size:,} bytes" if self.path.exists() else "no file"
            raise InputError(
                f"{self.path}: expected {self.nbytes:,} bytes of a cache, found {found}. Delete the"
                f" folder {self.path.parent} and run the command again: the cache is rebuilt"
            )

    def __getitem__(self, rows: int | slice) -> np.ndarray:
        if self._map is None:
            self.check()
            self._map = np.asarray(np.memmap(self.path, np.uint8, mode="r", shape=self.shape))
        return self._map[rows]

    def __getstate__(self) -> dict:
        return vars(self) | {"_map": None}


class PackedMasks:
    """Masks of any sizes, eight pixels a byte: `masks[i]` -> [H,W] uint8 of 0 and 1.

    Args:
        path: the file; every mask starts at a byte boundary.
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


class CachedPixels:
    """Images and masks of one size, by position, from a cache.

    Args:
        images: [N,S,S].
        masks: [N,ceil(S*S/8)], eight pixels a byte, or [N,S,S].
        full_masks: the masks at their original sizes.
        positions: [n] int64, rows of these images.
        whole: value of the pixels of a mask that is stored eight pixels a byte.
    """

    def __init__(
        self,
        images: MappedRows,
        masks: MappedRows,
        full_masks: PackedMasks,
        positions: np.ndarray,
        whole: int,
    ):
        self.images = images
        self.masks = masks
        self.full_masks = full_masks
        self.positions = positions
        self.whole = whole

    def __len__(self) -> int:
        return len(self.positions)

    def pair(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        """Return image and mask, uint8 [S,S]; the mask as `resize_mask` does."""
        row = self.positions[position]
        image, stored = self.images[row].copy(), self.masks[row]
        if stored.shape == image.shape:
            return image, stored.copy()
        mask = unpack(stored, (image.shape[0], image.shape[1]))
        return image, mask if self.whole == 1 else mask * np.uint8(self.whole)

    def triple(self, position: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return image and mask as `pair` does, and the mask at the original size, uint8 [H,W]."""
        return *self.pair(position), self.full_masks[self.positions[position]]


def unpack(bits: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Undo numpy.packbits: uint8 bytes -> [H,W] uint8 mask of 0 and 1."""
    return np.unpackbits(bits, count=shape[0] * shape[1]).reshape(shape)


def write_rows(paths: list[Path], rows: Iterable[list[np.ndarray]]) -> dict[str, int]:
    """Write several files row by row; they appear once all of them are complete.

    They are not written through a memory map, where a full disk would crash the process instead of
    raising OSError.

    Args:
        paths: the files.
        rows: one uint8 array per file, for each row.

    Returns:
        The CRC-32 of each file, by file name.
    """
    checksums = [0] * len(paths)
    with ExitStack() as stack:
        files = [
            stack.enter_context(open(stack.enter_context(atomic_write(path)), "wb"))
            for path in paths
        ]
        for row in rows:
            for i, (file, array) in enumerate(zip(files, row, strict=True)):
                file.write(array.data)
                checksums[i] = zlib.crc32(array.data, checksums[i])
    return {path.name: value for path, value in zip(paths, checksums, strict=True)}
