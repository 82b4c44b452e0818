"""What a source of pixels is made of and offers; `files` and `cache` are the two there are."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from utils.errors import InputError, raise_problems
from utils.parallel import Item, Result, map_in_order

FIX_HINT = (
    "Fix them, or leave them out with --exclude LIST, a file of image ids; "
    "python -m datasets.check lists them all"
)
"""What to do about files that cannot be used."""


@dataclass(frozen=True)
class Sample:
    """One annotated image: its id, and the files of the image and of its mask."""

    id: str
    image: Path
    mask: Path


class PixelSource(Protocol):
    """Where prepared pixels come from: `files.FileSource` or `cache.CacheSource`."""

    def mask_fractions(self) -> dict[str, float]:
        """Return, for every image id, the fraction of pixels that belong to the mask."""
        ...

    def build(self) -> None:
        """Prepare what can be prepared before the first epoch."""
        ...

    def pixels(self, ids: Sequence[str], size: int) -> "Pixels":
        """Return the pixels of some images, in the order of `ids`, at one size."""
        ...


class Pixels(Protocol):
    """Prepared images and masks of one size, by position."""

    def __len__(self) -> int: ...

    def pair(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        """Return image and mask, uint8 [S,S]; the mask has values 0 and 1."""
        ...

    def triple(self, position: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return `pair` and the mask at the image's original size, uint8 [H,W]."""
        ...


def check_same_size(
    sample: Sample, image_shape: tuple[int, ...], mask_shape: tuple[int, ...]
) -> None:
    """Refuse an image whose mask has another height or width.

    Raises:
        InputError: they differ; both files are named.
    """
    if tuple(image_shape) != tuple(mask_shape):
        raise InputError(
            f"{sample.image} is {image_shape[1]}x{image_shape[0]} but its mask {sample.mask} is "
            f"{mask_shape[1]}x{mask_shape[0]} pixels; prepare them again"
        )


def read_all(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Apply `work` like `map_in_order`, but let no `InputError` end it early.

    After the first one nothing more is yielded, since it would be of no use; the remaining items
    are still tried, so that the error lists everything that is wrong.

    Raises:
        InputError: some items were refused; its message lists them.
    """
    problems = []
    for result in map_in_order(lambda item: _attempt(work, item), items):
        if isinstance(result, InputError):
            problems.append(str(result))
        elif not problems:
            yield result
    raise_problems(problems, FIX_HINT)


def _attempt(work: Callable[[Item], Result], item: Item) -> Result | InputError:
    try:
        return work(item)
    except InputError as error:
        return error
