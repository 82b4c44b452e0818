"""Where the masks of a data set come from, a csv or folders of files, and the flags that say it."""

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from datasets.annotations.kinds import Annotation, MaskFiles, NothingMatchesError, RunLengths
from datasets.annotations.pairing import MaskFolder, find_masks, pair_masks
from datasets.formats.annotations import RLE_FORMS, RleRow, parse_size, read_annotations
from datasets.formats.ids import IdKind
from utils.console import argument_type
from utils.errors import InputError


@dataclass(frozen=True)
class MaskFlags:
    """How to read masks.

    Attributes:
        rle_size: height and width that a csv is for, if not those of the images.
        rle_form: of the run lengths of a csv, see `annotations.RLE_FORMS`.
        mask_suffix: ending of mask names, see `pairing.find_masks`.
        binarize: cut smoothed mask files at half of their range.
    """

    rle_size: tuple[int, int] | None = None
    rle_form: str = "relative"
    mask_suffix: str | None = None
    binarize: bool = False


class Found(NamedTuple):
    """The annotations of images.

    Attributes:
        annotations: by image id, for the images that are annotated; None where a split has no
            masks.
        refused: why the annotations of other images cannot be told, by image id.
        notes: lines to print.
        unused: number of annotations, or mask files, of other images.
    """

    annotations: Mapping[str, Annotation | None]
    refused: Mapping[str, str]
    notes: list[str]
    unused: int = 0

    @classmethod
    def without_masks(cls, images: Iterable[str]) -> "Found":
        """Return all images of a split without masks."""
        return cls(dict.fromkeys(images), {}, [])


@dataclass(frozen=True)
class CsvMasks:
    """Run lengths of a csv.

    Attributes:
        path: the csv.
        rows: all of its rows by image id.
        flags: how to read it.
    """

    path: Path
    rows: dict[str, list[RleRow]]
    flags: MaskFlags

    @classmethod
    def open(cls, path: Path, flags: MaskFlags) -> "CsvMasks":
        """Read a csv.

        Raises:
            InputError: see `read_annotations`.
        """
        return cls(path, read_annotations(path, flags.rle_form), flags)

    @property
    def label(self) -> str:
        """The csv, to print."""
        return str(self.path)

    def example(self) -> str:
        """Return an id of the csv."""
        return min(self.rows)

    def no_images(self) -> frozenset[Path]:
        """Return the files that are no images: none."""
        return frozenset()

    def find(self, images: Mapping[str, Sequence[Path]], folder: object) -> Found:
        """Find the rows of images.

        Args:
            images: the files of each image, by id.
            folder: of the images, for errors.

        Raises:
            NothingMatchesError: no image has a row.
        """
        named = [name for name in images if name in self.rows]
        if images and not named:
            raise NothingMatchesError(
                f"{self.path}: has no row for any of the {len(images)} images in {folder}, such as "
                f"{min(images)}; it has ids such as {min(self.rows)}. Check --images and --rle; "
                "where the csv names DICOMs by their files, give --ids file; where a table says "
                "which image a file is, give it with --names"
            )
        absent = len(self.rows) - len(named)
        notes = [f"{absent} ids in the csv have no image"] if absent else []
        return Found({name: self.annotation(name) for name in named}, {}, notes, absent)

    def annotation(self, name: str) -> RunLengths:
        """Return the rows of an image that has some."""
        return RunLengths(self.rows[name], self.path, self.flags.rle_size)


@dataclass(frozen=True)
class FolderMasks:
    """Mask files of one or more folders, whose union counts.

    Attributes:
        folders: the folders.
        kind: how images get their ids.
        flags: how to read the files.
        missing_empty: take an image without a mask file for an empty one, not an unannotated one.
    """

    folders: list[MaskFolder]
    kind: IdKind
    flags: MaskFlags
    missing_empty: bool = False

    @classmethod
    def open(
        cls,
        paths: Sequence[Path],
        flags: MaskFlags,
        images: Path | None = None,
        kind: IdKind = "uid",
        missing_empty: bool = False,
    ) -> "FolderMasks":
        """Find the mask files.

        Args:
            paths: the folders.
            flags: how to read the files.
            images: folder of the images, which may be in that of the masks.
            kind: how images get their ids.
            missing_empty: see the class.

        Raises:
            InputError: a folder is missing or has no mask file.
        """
        folders = [find_masks(path, flags.mask_suffix, kind, images) for path in paths]
        return cls(folders, kind, flags, missing_empty)

    @property
    def label(self) -> str:
        """The folders, to print."""
        return " and ".join(str(folder.folder) for folder in self.folders)

    def example(self) -> str:
        """Return the name of a mask file."""
        return self.folders[0].example()

    def no_images(self) -> frozenset[Path]:
        """Return the files that are no images: the masks, and what else is in their folders."""
        return frozenset().union(*(folder.files() | folder.others for folder in self.folders))

    def find(self, images: Mapping[str, Sequence[Path]], folder: object) -> Found:
        """Find the files of images; see `CsvMasks.find`.

        Raises:
            NothingMatchesError: no mask belongs to an image.
        """
        if not images:
            return Found({}, {}, [])
        pairs = pair_masks(images, self.folders, self.kind)
        annotations: dict[str, Annotation | None] = {
            name: MaskFiles(paths, self.flags.binarize) for name, paths in pairs.masks.items()
        }
        notes = []
        if pairs.unused:
            notes.append(f"{pairs.unused:,} mask files belong to none of these images")
        if pairs.partial:
            notes.append(
                f"{pairs.partial:,} images have a mask in only some of the {len(self.folders)} "
                "folders"
            )
        missing = images.keys() - annotations.keys() - pairs.refused.keys()
        if self.missing_empty and missing:
            annotations |= dict.fromkeys(missing, MaskFiles(()))
            notes.append(f"{len(missing):,} images without a mask file are taken for empty")
        return Found(annotations, pairs.refused, notes, pairs.unused)


MaskSource = CsvMasks | FolderMasks


def open_masks(
    paths: Sequence[Path],
    flags: MaskFlags,
    flag: str,
    images: Path | None = None,
    kind: IdKind = "uid",
) -> MaskSource:
    """Open a csv of masks, or folders of mask files.

    Args:
        paths: one csv, or folders.
        flags: how to read them.
        flag: that they were given to, for errors.
        images: folder of the images, if there is one; see `FolderMasks.open`.
        kind: how images get their ids.

    Raises:
        InputError: they are neither, or cannot be used.
    """
    if len(paths) == 1 and paths[0].is_file():
        return CsvMasks.open(paths[0], flags)
    for path in paths:
        if not path.is_dir():
            raise InputError(
                f"{path}: is not a folder{' or file' * (len(paths) == 1)}; {flag} takes a csv of "
                "masks, or folders of mask files"
            )
    return FolderMasks.open(paths, flags, images, kind)


def add_mask_flags(add: Callable[..., argparse.Action], masks: str) -> None:
    """Add the flags of `MaskFlags` to a command.

    Args:
        add: `add_argument` of its parser.
        masks: name of the flag that takes folders.
    """
    add(
        "--rle_size",
        type=argument_type(parse_size),
        metavar="HxW",
        help="height and width of the images that the csv is for, such as 1024x1024; masks are "
        "resized to the images (default: the size of each image)",
    )
    add(
        "--rle_form",
        choices=RLE_FORMS,
        default="relative",
        help="what the first number of each pair of run lengths is: relative, the gap after the "
        "previous run, as in Kaggle's csv; absolute, the run's first pixel, counted from 1 "
        "(default: relative)",
    )
    add(
        "--mask_suffix",
        metavar="TEXT",
        help=f"ending of the names in {masks} that the images do not have, such as _seg (default: "
        "none, _mask or .mask)",
    )
    add(
        "--binarize",
        nargs="?",
        choices=("true", "false"),
        const="true",
        default="false",
        help=f"accept files in {masks} with more than two values, which were smoothed or saved as "
        "JPEG, and cut them at half of their range (default: false, they are refused)",
    )


def mask_flags(options: argparse.Namespace) -> MaskFlags:
    """Return the parsed flags of `add_mask_flags`."""
    binarize = options.binarize == "true"
    return MaskFlags(options.rle_size, options.rle_form, options.mask_suffix, binarize)


def unused_mask_flags(options: argparse.Namespace, folders: bool) -> list[str]:
    """Name the flags that have no effect: those for files with a csv, or the other way round."""
    flags, default = mask_flags(options), MaskFlags()
    names = ("mask_suffix", "binarize") if not folders else ("rle_size", "rle_form")
    return [f"--{name}" for name in names if getattr(flags, name) != getattr(default, name)]
