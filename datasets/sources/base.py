"""The interface of a pixel source, implemented by `files` and `cache`."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from datasets.formats.masks import MaskError
from utils.errors import InputError, raise_problems
from utils.parallel import Item, Result, map_in_order

FIX_HINT = (
    "Fix them, or leave them out with --exclude LIST, a file of image ids; "
    "python -m datasets.check lists them all"
)
"""What to do about unusable files."""
MASK_HINT = "Fix them, or prepare the images again; python -m datasets.check lists them all"
"""What to do when masks are among them: excluding a kind of mask would leave out positives only."""


@dataclass(frozen=True)
class Sample:
    """One annotated image: its id, and the files of the image and of its mask."""

    id: str
    image: Path
    mask: Path


class PixelSource(Protocol):
    """A source of prepared pixels: `files.FileSource` or `cache.CacheSource`."""

    def mask_fractions(self) -> dict[str, float]:
        """Return, for every image id, the fraction of pixels that belong to the mask."""
        ...

    def build(self) -> None:
        """Do the work that can be done before the first epoch."""
        ...

    def check_files(self) -> None:
        """Refuse memory-mapped files that have been removed or cut since `build`."""
        ...

    def pixels(self, ids: Sequence[str], size: int) -> "Pixels":
        """Return the pixels of the images `ids`, in this order, at one size."""
        ...


class Pixels(Protocol):
    """Prepared images and masks of one size, by position."""

    def __len__(self) -> int: ...

    def pair(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        """Return image and mask, uint8 [S,S]; the mask as `resize_mask` does."""
        ...

    def triple(self, position: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return `pair` and the mask at the image's original size, uint8 [H,W]."""
        ...


def check_same_size(
    sample: Sample, image_shape: tuple[int, ...], mask_shape: tuple[int, ...]
) -> None:
    """Check that an image and its mask have the same height and width.

    Raises:
        InputError: they differ; the message names both files.
    """
    if tuple(image_shape) != tuple(mask_shape):
        raise InputError(
            f"{sample.image} is {image_shape[1]}x{image_shape[0]} but its mask {sample.mask} is "
            f"{mask_shape[1]}x{mask_shape[0]} pixels; prepare them again"
        )


def read_all(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Apply `work` like `map_in_order`, but collect every `InputError` before raising.

    After the first error nothing more is yielded. The remaining items are still tried, so that the
    message lists everything that is wrong.

    Raises:
        InputError: `work` raised it for some items; the message lists them.
    """
    problems: list[InputError] = []
    for result in map_in_order(lambda item: _attempt(work, item), items):
        if isinstance(result, InputError):
            problems.append(result)
        elif not problems:
            yield result
    hint = MASK_HINT if any(isinstance(problem, MaskError) for problem in problems) else FIX_HINT
    raise_problems([str(problem) for problem in problems], hint)


def _attempt(work: Callable[[Item], Result], item: Item) -> Result | InputError:
    try:
        return work(item)
    except InputError as error:
        return error
