"""The cache: images decoded, equalised and resized once, then memory-mapped by all processes.

A cache is a folder named after a fingerprint of the data set, so that a changed file never leads to
stale pixels. For N images it holds:

    images_<size>_<clahe|plain>.bin   [N,size,size] uint8
    masks_<size>.bin                  [N,ceil(size*size/8)] uint8, eight pixels a byte
    masks_<size>_area.bin             the same for masks resized by area
    masks_<size>_soft.bin             [N,size,size] uint8, soft masks; eight pixels a byte where
                                      all originals have this size, so that no value lies between
    masks_original.bin                the masks at their original sizes, eight pixels a byte
    shapes.npy                        [N,3] int64: height, width and pixels of each mask
    checksums.json                    the CRC-32 of each of these files

Each file is written under a temporary name and renamed once it is complete; its checksum follows.
A file without a checksum or of another size than its shape implies is written again. Whether the
pixels still match their checksums is only tested by `python -m datasets.check`, since that reads
every file.
"""

import hashlib
import io
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from datasets.formats.images import read_image
from datasets.formats.masks import read_mask
from datasets.preprocessing import equalise, resize_image, resize_mask, whole_pixel
from datasets.sources.base import Sample, check_same_size, read_all
from datasets.sources.checksums import Checksums, checksum
from datasets.sources.fingerprint import probe
from datasets.sources.memmap import CachedPixels, MappedRows, PackedMasks, write_rows
from utils.console import print0
from utils.errors import InputError
from utils.files import atomic_write, hold_lock, remove_temporaries
from utils.parallel import map_in_order

_FORMAT = 3
"""Part of the fingerprint. Rises whenever the file format changes, and whenever pixels do: with any
change of how images or masks are decoded, equalised or resized."""
_SAMPLED = 16
"""Masks that are read to estimate the size of masks_original.bin."""
_GB = 1e9
_CACHE = re.compile(r"[0-9a-f]{16}")
_FILE = re.compile(
    r"(images_[0-9]+_(clahe|plain)|masks_([0-9]+(_area|_soft)?|original))\.bin"
    r"|shapes\.npy|checksums\.json"
)
"""The names of a cache and of its files; whatever else lies there is not touched."""
_ADVICE = "Choose another folder with --cache_dir, or train without a cache: --cache false"
_ORIGINALS, _SHAPES = "masks_original.bin", "shapes.npy"


class CacheSource:
    """The prepared pixels of a data set, cached at fixed sizes.

    Args:
        samples: the files by image id.
        clahe: equalise the local contrast.
        sizes: sides of the square images in pixels.
        root: the folder of all caches.
        mask_resize: method of `resize_mask`.

    Raises:
        InputError: a file does not exist or is not accessible.
    """

    def __init__(
        self,
        samples: dict[str, Sample],
        clahe: bool,
        sizes: Iterable[int],
        root: str | Path,
        mask_resize: str = "nearest",
    ):
        self.samples = samples
        self.mask_resize = mask_resize
        self.clahe = clahe
        self.sizes = sorted(set(sizes))
        self.root = Path(root)
        self.folder = self.root / _fingerprint(samples)
        self.checksums = Checksums(self.folder)

    def mask_fractions(self) -> dict[str, float]:
        """Return the fraction of mask pixels of every image, reading the masks if not cached.

        Raises:
            InputError: masks cannot be read, or the cache cannot be written.
        """
        if not self._has_originals():
            with self._building():
                if not self._has_originals():
                    self._build_originals()
        height, width, pixels = self._checked_shapes().T
        return dict(zip(self.samples, (pixels / (height * width)).tolist(), strict=True))

    def build(self) -> None:
        """Write what is missing; if another process is already building this cache, wait for it.

        Raises:
            InputError: files cannot be read, images differ in size from their masks, or the cache
                cannot be written.
        """
        self.mask_fractions()
        if self._missing():
            with self._building():
                self._build_masks(self._missing_sizes(self._masks))
                self._build_images(self._missing_sizes(self._images))

    def check_files(self) -> None:
        """Check that all files that training reads are complete.

        Raises:
            InputError: one has been removed or cut since it was built.
        """
        for rows in (*map(self._images, self.sizes), *map(self._masks, self.sizes)):
            rows.check()
        self._originals().rows.check()

    def pixels(self, ids: Sequence[str], size: int) -> "CachedPixels":
        """Return the pixels of the images `ids`, in this order, at one of the built sizes.

        Raises:
            InputError: a file of the cache has been removed or cut since it was built.
        """
        images, masks, full_masks = self._images(size), self._masks(size), self._originals()
        for rows in (images, masks, full_masks.rows):
            rows.check()
        position_of = {name: position for position, name in enumerate(self.samples)}
        positions = np.array([position_of[name] for name in ids], dtype=np.int64)
        return CachedPixels(images, masks, full_masks, positions, whole_pixel(self.mask_resize))

    def _build_originals(self) -> None:
        shapes = []

        def rows() -> Iterator[list[np.ndarray]]:
            masks = read_all(lambda sample: read_mask(sample.mask), self.samples.values())
            for mask in self._progress(masks, "reading masks"):
                shapes.append((*mask.shape, np.count_nonzero(mask)))
                yield [np.packbits(mask)]

        checksums = write_rows([self.folder / _ORIGINALS], rows())
        content = io.BytesIO()
        np.save(content, np.array(shapes, dtype=np.int64))
        with atomic_write(self.folder / _SHAPES) as temporary:
            temporary.write_bytes(content.getvalue())
        self.checksums.add(checksums | {_SHAPES: checksum([content.getvalue()])})

    def _build_masks(self, sizes: list[int]) -> None:
        full_masks = self._originals()

        is_packed = {size: self._is_packed(size) for size in sizes}

        def resized(position: int) -> list[np.ndarray]:
            full_mask = full_masks[position]
            masks = ((size, resize_mask(full_mask, size, self.mask_resize)) for size in sizes)
            return [np.packbits(mask) if is_packed[size] else mask for size, mask in masks]

        rows = map_in_order(resized, range(len(self.samples)))
        paths = [self._masks(size).path for size in sizes]
        self._write(paths, rows, "resizing masks")

    def _build_images(self, sizes: list[int]) -> None:
        def prepared(item: tuple[Sample, np.ndarray]) -> list[np.ndarray]:
            sample, mask_shape = item
            grey = read_image(sample.image, bits=None)
            check_same_size(sample, grey.shape, tuple(mask_shape.tolist()))
            grey = equalise(grey) if self.clahe else grey
            return [resize_image(grey, size) for size in sizes]

        pairs = zip(self.samples.values(), self._originals().shapes, strict=True)
        rows = read_all(prepared, pairs)
        paths = [self._images(size).path for size in sizes]
        self._write(paths, rows, "preparing images")

    def _write(self, paths: list[Path], rows: Iterable[list[np.ndarray]], what: str) -> None:
        if paths:
            self.checksums.add(write_rows(paths, self._progress(rows, what)))

    def _progress(self, rows: Iterable, what: str) -> tqdm:
        return tqdm(rows, what, len(self.samples), unit="image", leave=False)

    def _images(self, size: int) -> MappedRows:
        name = f"images_{size}_{'clahe' if self.clahe else 'plain'}.bin"
        return MappedRows(self.folder / name, (len(self.samples), size, size))

    def _masks(self, size: int) -> MappedRows:
        row = (-(-(size**2) // 8),) if self._is_packed(size) else (size, size)
        method = "" if self.mask_resize == "nearest" else f"_{self.mask_resize}"
        return MappedRows(self.folder / f"masks_{size}{method}.bin", (len(self.samples), *row))

    def _is_packed(self, size: int) -> bool:
        """Return whether the masks of a size have two values, so that each pixel takes a bit."""
        if self.mask_resize != "soft":
            return True
        # Before the shapes are known, only the needed space is asked for, and again after.
        shapes = self._shapes()
        return shapes is None or bool((shapes[:, :2] == size).all())

    def _originals(self) -> PackedMasks:
        return PackedMasks(self.folder / _ORIGINALS, self._checked_shapes()[:, :2])

    def _shapes(self) -> np.ndarray | None:
        """Return the content of shapes.npy, None if it is missing or damaged."""
        try:
            content = (self.folder / _SHAPES).read_bytes()
        except OSError:
            return None
        if checksum([content]) != self.checksums.read().get(_SHAPES):
            return None
        return np.load(io.BytesIO(content), allow_pickle=False)

    def _checked_shapes(self) -> np.ndarray:
        shapes = self._shapes()
        if shapes is None:
            raise InputError(
                f"{self.folder / _SHAPES}: is missing or differs from its checksum in "
                f"{self.checksums.path.name}. Delete the folder {self.folder} and run the command "
                "again: the cache is rebuilt"
            )
        return shapes

    def _has_originals(self) -> bool:
        return self._shapes() is not None and self._is_complete(self._originals().rows)

    def _missing(self) -> list[MappedRows]:
        kinds = (self._images, self._masks)
        return [kind(size) for kind in kinds for size in self._missing_sizes(kind)]

    def _missing_sizes(self, kind: Callable[[int], MappedRows]) -> list[int]:
        return [size for size in self.sizes if not self._is_complete(kind(size))]

    def _is_complete(self, rows: MappedRows) -> bool:
        return rows.is_complete() and rows.path.name in self.checksums.read()

    @contextmanager
    def _building(self) -> Iterator[None]:
        """Hold the lock of this cache, and raise an `InputError` for any disk error."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with hold_lock(self.folder, f"to build the cache {self.folder}", _ADVICE):
                remove_temporaries(self.folder, lambda name: bool(_FILE.fullmatch(name)))
                self._check_space()
                yield
        except OSError as error:
            raise InputError(
                f"the cache {self.folder} cannot be written ({error.strerror or error}). {_ADVICE}"
            ) from error

    def _check_space(self) -> None:
        """Print how much will be written, and refuse if it does not fit on the disk."""
        needed = sum(rows.nbytes for rows in self._missing())
        needed += 0 if self._has_originals() else self._estimate_originals()
        free = shutil.disk_usage(self.folder).free
        sizes = " and ".join(str(size) for size in self.sizes)
        text = (
            f"cache of {len(self.samples)} images at {sizes} pixels: {needed / _GB:.2f} GB to "
            f"write to {self.folder}, which has {free / _GB:.2f} GB free"
        )
        if needed > free:
            raise InputError(f"{text}. {_ADVICE}")
        if needed:
            others = sum(bool(_CACHE.fullmatch(path.name)) for path in self.root.iterdir()) - 1
            print0(text + (f" ({others} other caches in the same folder)" if others else ""))

    def _estimate_originals(self) -> int:
        samples = list(self.samples.values())
        sampled = samples[:: -(-len(samples) // _SAMPLED)]
        size = sum(_packed_size(sample) for sample in sampled)
        return size * len(samples) // len(sampled)


def _packed_size(sample: Sample) -> int:
    try:
        return len(np.packbits(read_mask(sample.mask)))
    except InputError:
        # Reading all masks, the next step, reports this one together with all others.
        return 0


def _fingerprint(samples: dict[str, Sample]) -> str:
    """Hash the ids and probes of all files, `_FORMAT` and the version of OpenCV."""
    digest = hashlib.sha256(f"{_FORMAT} {cv2.__version__}".encode())
    for sample in samples.values():
        for path in (sample.image, sample.mask):
            size, modified, content = probe(path)
            digest.update(f"\n{sample.id}\0{size}\0{modified}\0".encode() + content)
    return digest.hexdigest()[:16]
