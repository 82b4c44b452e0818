"""Pairing mask files with images by the names of both."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from datasets.annotations.kinds import NothingMatchesError
from datasets.formats.finding import PICTURES, find_images, stem_of
from datasets.formats.ids import PATH_HINT, IdKind, IdRule
from utils.errors import InputError

MASK_SUFFIXES = ("_mask", "-mask", ".mask", ".2.mask")
"""Endings of mask names that their images do not have; the last is that of PTX-498."""
IMAGE_SUFFIXES = ("_0000", ".img", ".1.img")
"""Endings of image names that their masks do not have: nnU-Net's channel, and PTX-498's."""


class MaskFolder(NamedTuple):
    """The mask files of a folder, by their names below it.

    Attributes:
        folder: the folder.
        full: files by the whole name.
        short: files by the name without its ending, for those that have one.
        others: files that are neither masks nor images.
    """

    folder: Path
    full: Mapping[str, list[Path]]
    short: Mapping[str, list[Path]]
    others: frozenset[Path] = frozenset()

    def files(self) -> set[Path]:
        """Return all mask files."""
        return set().union(*self.full.values(), *self.short.values())

    def example(self) -> str:
        """Return the name of a mask."""
        return min(path.name for path in self.files())


class Pairs(NamedTuple):
    """Mask files of images.

    Attributes:
        masks: the mask files by image id, in the order of the folders.
        refused: why the masks of other images cannot be told.
        partial: number of images with a mask in only some of the folders.
        unused: number of mask files without an image.
    """

    masks: dict[str, list[Path]]
    refused: dict[str, str]
    partial: int
    unused: int


def find_masks(
    folder: Path, suffix: str | None = None, kind: IdKind = "uid", images: Path | None = None
) -> MaskFolder:
    """Find the mask files of a folder and its subfolders.

    Args:
        folder: the folder.
        suffix: ending of the masks' names, which the images do not have; files without it are no
            masks. None knows the usual ones, and takes every file for a mask.
        kind: how images get their ids; by path, masks are named by theirs.
        images: folder of the images. Where it is in `folder`, or is the same, only the files with
            an ending are masks.

    Raises:
        InputError: there are none, or it is no folder.
    """
    if not folder.is_dir():
        table = "; give a csv of run lengths to --rle" if folder.is_file() else ""
        raise InputError(f"{folder}: is not a folder; --masks takes folders of mask files{table}")
    paths = [path for path in find_images(folder) if path.suffix.lower() in PICTURES]
    rule = IdRule("path" if kind == "path" else "file", folder)
    mixed = images is not None and images.resolve().is_relative_to(folder.resolve())
    full, short = defaultdict(list), defaultdict(list)
    for path in paths:
        name = rule.name(path)
        stripped = _strip(name, MASK_SUFFIXES if suffix is None else (suffix,))
        if stripped is not None:
            short[stripped].append(path)
        if suffix is None and not (mixed and stripped is None):
            full[name].append(path)
    if not full and not short:
        endings = [suffix] if suffix else MASK_SUFFIXES if mixed else ()
        which = f" whose name ends in {' or '.join(endings)}" if endings else ""
        raise InputError(
            f"{folder}: has no {', '.join(PICTURES)} files{which}, subfolders included; check "
            "the folder and --mask_suffix"
        )
    masks = MaskFolder(folder, full, short)
    return masks if mixed else masks._replace(others=frozenset(paths) - masks.files())


def pair_masks(
    images: Mapping[str, Sequence[Path]], folders: Sequence[MaskFolder], kind: IdKind = "uid"
) -> Pairs:
    """Find the masks of images in each of several folders.

    A mask belongs to the image whose id or file name it has, or has but for the usual endings.

    Args:
        images: the files of each image, by id.
        folders: the folders of masks.
        kind: how the ids were made; by path, the name of a file alone names no image.

    Raises:
        NothingMatchesError: no mask belongs to an image.
    """
    masks: dict[str, list[Path]] = defaultdict(list)
    refused: dict[str, str] = {}
    for folder in folders:
        owner: dict[Path, str] = {}
        for name, found in _pairs_in(folder, images, kind):
            if len(found) > 1:
                refused[name] = (
                    f"{found[0]} and {found[1]}: both are masks of image {name}; "
                    + _advice(images[name])
                )
            elif owner.setdefault(found[0], name) != name:
                refused[name] = (
                    f"{found[0]}: is the mask of image {owner[found[0]]} and of image {name}; "
                    "rename it"
                )
            masks[name].append(found[0])
    if not masks:
        raise NothingMatchesError(_describe_mismatch(images, folders))
    used = {path for paths in masks.values() for path in paths}
    total = len(set().union(*(folder.files() for folder in folders)))
    partial = sum(len(paths) < len(folders) for paths in masks.values())
    return Pairs(
        {name: paths for name, paths in masks.items() if name not in refused},
        refused,
        partial,
        total - len(used),
    )


def _pairs_in(
    folder: MaskFolder, images: Mapping[str, Sequence[Path]], kind: IdKind
) -> Iterator[tuple[str, list[Path]]]:
    """Yield the masks of each image that has any in a folder, exact names first."""
    later = []
    for name, files in images.items():
        keys = {name} if kind == "path" else {name, *(stem_of(path.name) for path in files)}
        found = _look_up(folder, keys)
        if found:
            yield name, found
        else:
            later.append((name, keys))
    for name, keys in later:
        short = {stripped for key in keys if (stripped := _strip(key, IMAGE_SUFFIXES)) is not None}
        found = _look_up(folder, short)
        if found:
            yield name, found


def _advice(files: Sequence[Path]) -> str:
    """Say what to do about two masks of an image, which may be two images with one id."""
    if len(files) > 1:
        return f"{files[0]} and {files[1]} are both this image; {PATH_HINT}"
    return "remove one, or, if they are parts, give the folder of each, and they are joined"


def _look_up(folder: MaskFolder, keys: Iterable[str]) -> list[Path]:
    named = (names.get(key, ()) for key in keys for names in (folder.full, folder.short))
    return sorted(set().union(*named))


def _strip(name: str, suffixes: Iterable[str]) -> str | None:
    """Strip the longest of the endings; None if the name has none of them."""
    fits = [suffix for suffix in suffixes if name.endswith(suffix) and len(name) > len(suffix)]
    return name.removesuffix(max(fits, key=len)) if fits else None


def _describe_mismatch(images: Mapping[str, Sequence[Path]], folders: Sequence[MaskFolder]) -> str:
    name = min(images)
    file, advice = name, "give the table of names, if there is one, with --names"
    if images[name]:
        file, advice = images[name][0].name, "rename the files"
    return (
        f"{folders[0].folder}: no mask has the name of an image. An image is {file} (id {name}), a "
        f"mask {folders[0].example()}; if the names of masks have an ending, give it with "
        f"--mask_suffix; where the names have no common part, {advice}"
    )
