"""The annotation of one image: rows of a csv, or mask files."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.formats import rle
from datasets.formats.annotations import RleRow, annotated_mask, check_extent
from datasets.formats.images import read_values
from datasets.formats.masks import SmoothedMaskError, binary_mask, cut_at_half
from datasets.preprocessing import fit_mask
from utils.errors import InputError

SAME_SHAPE = 0.01
"""How much the aspect ratios of a mask and its image may differ by rounding."""


class NothingMatchesError(InputError):
    """No mask belongs to an image; the message has a name of each side."""


class Changes(NamedTuple):
    """What had to be done to mask files, to report it.

    Attributes:
        resized: files that were resized to their images.
        stretched: those of them that have another aspect ratio than their images.
        cut: smoothed files that were cut at half of their range.
        cut_pixels: pixels of those.
        ambiguous: pixels of those that were between a quarter and three quarters of the range.
    """

    resized: int = 0
    stretched: int = 0
    cut: int = 0
    cut_pixels: int = 0
    ambiguous: int = 0

    @classmethod
    def total(cls, several: Iterable["Changes"]) -> "Changes":
        """Add up the changes of several files."""
        return cls(*map(sum, zip(cls(), *several, strict=True)))

    def describe(self) -> list[str]:
        """Return lines to print."""
        lines = []
        if self.resized:
            lines.append(
                f"{self.resized:,} mask files were resized to their images, by area and cut at half"
                + (f"; {self.stretched:,} were stretched to do so" if self.stretched else "")
            )
        if self.cut:
            lines.append(
                f"{self.cut:,} smoothed mask files were cut at half of their range; "
                f"{self.ambiguous / self.cut_pixels:.3%} of their pixels are ambiguous, between a "
                "quarter and three quarters of it"
            )
        return lines


NO_CHANGES = Changes()


class RunLengths(NamedTuple):
    """All rows that a csv has for an image.

    Attributes:
        rows: the rows.
        csv: their file.
        size: height and width of the images that the csv is for, if not those of the image.
    """

    rows: Sequence[RleRow]
    csv: Path
    size: tuple[int, int] | None = None

    def draw(self, height: int, width: int) -> tuple[np.ndarray, Changes]:
        """Decode the mask, [H,W] uint8 of 0 and 1; see `annotated_mask`."""
        return annotated_mask(self.rows, height, width, self.csv, self.size), NO_CHANGES

    def check(self, name: str, size: tuple[int, int]) -> None:
        """Refuse a csv for images of another size; see `check_extent`."""
        check_extent(name, self.rows, size, self.csv, self.size)

    def extent(self) -> int:
        """Return how many pixels the image needs for the runs to fit."""
        return max(rle.extent(row.rle) for row in self.rows)

    def describe(self) -> str:
        """Name the rows, for errors."""
        return f"{self.csv} row {self.rows[0].number}"


class MaskFiles(NamedTuple):
    """The mask files of an image, whose union is its mask; without a file, the mask is empty.

    Attributes:
        paths: the files.
        binarize: cut smoothed masks at half of their range, instead of refusing them.
    """

    paths: Sequence[Path]
    binarize: bool = False

    def draw(self, height: int, width: int) -> tuple[np.ndarray, Changes]:
        """Read the files, each resized to the image by area and cut at half.

        Returns:
            [H,W] uint8 mask of 0 and 1, and what had to be changed.

        Raises:
            InputError: a file cannot be read, or does not say what belongs to the mask.
        """
        union, changes = np.zeros((height, width), np.uint8), []
        for path in self.paths:
            mask, change = self._read(path)
            if mask.shape != union.shape:
                squeeze = mask.shape[0] * width / (mask.shape[1] * height)
                stretched = not 1 - SAME_SHAPE < squeeze < 1 + SAME_SHAPE
                change = change._replace(resized=1, stretched=int(stretched))
            union |= fit_mask(mask, height, width)
            changes.append(change)
        return union, Changes.total(changes)

    def check(self, name: str, size: tuple[int, int]) -> None:
        """Accept any size: the files are resized."""

    def extent(self) -> int:
        """Return how many pixels the image needs: any number fits."""
        return 0

    def describe(self) -> str:
        """Name the files, for errors."""
        return " and ".join(map(str, self.paths)) or "no mask file"

    def _read(self, path: Path) -> tuple[np.ndarray, Changes]:
        values = read_values(path)
        try:
            return binary_mask(values, path), NO_CHANGES
        except SmoothedMaskError:
            if not self.binarize:
                raise
        mask, ambiguous = cut_at_half(values, path)
        return mask, Changes(cut=1, cut_pixels=mask.size, ambiguous=ambiguous)


Annotation = RunLengths | MaskFiles
