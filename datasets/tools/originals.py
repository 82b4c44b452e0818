"""The images to convert: their ids and sizes, and the depth of those with 16 bits."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from datasets.annotations.names import Named
from datasets.formats.depth import choose_depth, largest_value, read_bits, write_bits
from datasets.formats.finding import SUFFIXES, find_images, stem_of
from datasets.formats.ids import IdRule
from datasets.formats.images import ImageIdentity, identify
from datasets.tools.convert import remove
from utils.errors import InputError


class Originals(NamedTuple):
    """What the headers of the original images say.

    Attributes:
        files: the files of every image id.
        sizes: height and width in pixels by image id, where they can be read.
        deep: the image ids of 16-bit files of unknown depth.
        patients: the PatientID by image id, of DICOMs that have one.
        refused: why other files cannot be used.
    """

    files: dict[str, list[Path]]
    sizes: dict[str, tuple[int, int]]
    deep: dict[Path, str]
    patients: dict[str, str]
    refused: list[str]


def find_originals(images: Path, folders: list[Path], others: Collection[Path] = ()) -> list[Path]:
    """List the image files in a folder and its subfolders, sorted.

    Args:
        images: the folder.
        folders: to write to.
        others: files that are none, such as masks.

    Raises:
        InputError: there are none, or the folder overlaps one of the output `folders`.
    """
    source = images.resolve()
    for folder in folders:
        target = folder.resolve()
        if source == target or source in target.parents or target in source.parents:
            raise InputError(f"{images}: overlaps the output folder {folder}; choose another --out")
    paths, taken = find_images(images), {path.resolve() for path in others}
    if taken:
        paths = [path for path in paths if path.resolve() not in taken]
    if not paths:
        raise InputError(
            f"{images}: has no {', '.join(SUFFIXES)} files"
            + (" but masks" if others else "")
            + ", subfolders included; check --images"
        )
    return paths


def identify_originals(
    run: Callable[..., Iterable],
    paths: list[Path],
    rule: IdRule,
    names: Mapping[str, Named] | None = None,
) -> Originals:
    """Read the header of every file.

    Args:
        run: maps a function over items, in this process or in several.
        paths: the files.
        rule: how they get their ids.
        names: a table of ids by the stem of the files, all of which it has; it replaces the rule.
    """
    files: dict[str, list[Path]] = defaultdict(list)
    found = Originals(files, {}, {}, {}, [])
    identities = show_progress(run(partial(_identify, rule=rule), paths), len(paths), "reading ids")
    for path, identity in zip(paths, identities, strict=True):
        if isinstance(identity, str):
            found.refused.append(identity)
            continue
        name = identity.id if names is None else names[stem_of(path.name)].id
        files[name].append(path)
        if identity.size is not None:
            found.sizes[name] = identity.size
        if identity.deep:
            found.deep[path] = name
        if identity.patient:
            found.patients[name] = identity.patient
    return found


def decide_bits(
    run: Callable[..., Iterable],
    deep: Iterable[Path],
    records: Iterable[Path],
    bits: int | None,
    any_modality: bool,
) -> int | None:
    """Choose and print the depth to read 16-bit images with.

    Args:
        run: see `identify_originals`.
        deep: the 16-bit files.
        records: of the depth, which other images of the data set were read with.
        bits: the depth that was asked for, if any.
        any_modality: accept DICOMs that are no X-rays.

    Returns:
        The depth; None if there is no usable 16-bit file.

    Raises:
        InputError: other images of the data set were read with another depth.
    """
    paths = list(deep)
    values = run(partial(largest_value, any_modality=any_modality), paths)
    depth = choose_depth(show_progress(values, len(paths), "finding depth") if paths else (), bits)
    if depth is None:
        return None
    print(depth.describe())
    for record in records:
        recorded = read_bits(record)
        if recorded not in (None, depth.bits):
            raise InputError(
                f"{record}: this data set has images read as {recorded} bits, and these would be "
                f"read as {depth.bits}. Read them alike with --bits {recorded}, or prepare all "
                f"images again into another --out with --bits {max(recorded, depth.bits)}"
            )
    return depth.bits


def record_bits(record: Path, bits: int, folders: list[Path], names: Iterable[str]) -> None:
    """Record the depth of a data set before its first 16-bit image is converted.

    Args:
        record: the file to write, if it does not exist.
        bits: the depth.
        folders: of images and masks.
        names: ids of the 16-bit images. Their files, which an older version may have written with
            another depth, are removed, so that they are converted again.
    """
    if not record.exists():
        for name in names:
            remove(name, folders)
        write_bits(record, bits)


def show_progress(results: Iterable, total: int, what: str) -> Iterable:
    """Show a progress bar while results arrive."""
    return tqdm(results, total=total, desc=what, unit="image", disable=None)


def _identify(path: Path, rule: IdRule) -> ImageIdentity | str:
    try:
        return identify(path, rule)
    except InputError as error:
        return str(error)
