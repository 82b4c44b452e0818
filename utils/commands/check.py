"""The work of python -m datasets.check: find what is wrong with a data set, and report it."""

import argparse
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from datasets.folds import read_folds
from datasets.siim import MASK_SIZES, FoundSamples, read_excluded, scan_samples
from datasets.sources.base import Sample
from datasets.sources.cache import CacheSource
from datasets.tools.findings import Duplicates, ImageRecord, find_duplicates, inspect_images
from datasets.tools.plots import draw_data
from utils.errors import InputError, cause_of
from utils.files import write_json

_QUANTILES = {
    "smallest": 0,
    "lower_quartile": 25,
    "median": 50,
    "upper_quartile": 75,
    "largest": 100,
}


def check(options: argparse.Namespace) -> bool:
    """Check a data set as the options of datasets.check say; print and write what is found.

    Returns:
        Whether the data set can be trained on and its cache is intact.

    Raises:
        InputError: the data set cannot be read, or a result cannot be written.
    """
    fold_of = _read_fold_of(options.folds) if options.folds else None
    found = scan_samples(options.dataset_root, read_excluded(options.exclude))
    if fold_of is not None:
        _check_folds(options.folds, fold_of, found)
    records, unreadable = inspect_images(found.samples.values(), len(found.samples))
    duplicates = find_duplicates(records, fold_of)
    areas = np.array([record.area for record in records], dtype=np.int64)
    cache_root = options.cache_dir or options.dataset_root / "cache"
    content = build_report(found, records, found.problems + unreadable, duplicates)
    content["cache"] = check_cache(found.samples, cache_root)
    print("\n".join(_lines(content)))
    out = options.out or options.dataset_root
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / "check.json", content)
        draw_data(areas, [record.size for record in records], out / "check.png")
    except OSError as error:
        raise InputError(
            f"{out} cannot be written to ({cause_of(error)}); choose another --out"
        ) from error
    print(f"\n{out / 'check.json'}, {out / 'check.png'}")
    return not (content["stops_a_training"] or content["cache"]["damaged"])


def check_cache(samples: dict[str, Sample], root: Path) -> dict:
    """Compare every file of a data set's cache with its checksum.

    Args:
        samples: the images that a training would use.
        root: the folder of all caches.

    Returns:
        The cache's `folder`, how many `files` with a checksum it has, and which are `damaged`. The
        folder is None if it is unknown, because files of the data set cannot be opened.
    """
    try:
        cache = CacheSource(samples, clahe=True, sizes=(), root=root)
    except InputError:
        return {"folder": None, "files": 0, "damaged": []}
    listed = cache.checksums
    damaged = listed.differing()
    if listed.path.exists() and not listed.read():
        damaged = [listed.path]
    return {
        "folder": str(cache.folder),
        "files": len(listed.read()),
        "damaged": [str(path) for path in damaged],
    }


def build_report(
    found: FoundSamples,
    records: list[ImageRecord],
    refused: list[str],
    duplicates: list[Duplicates],
) -> dict:
    """Return the content of check.json.

    Args:
        found: contents of the folders.
        records: the images that can be trained on.
        refused: problems with files, each of which would stop training.
        duplicates: groups of images with identical pixels.
    """
    masks = np.array([record.area for record in records if record.area], dtype=np.int64)
    sizes = Counter(f"{width}x{height}" for height, width in (r.size for r in records))
    return {
        "images": len(records),
        "positives": len(masks),
        "sizes": dict(sizes.most_common()),
        "mask_pixels": {
            name: float(np.percentile(masks, percent)) if masks.size else None
            for name, percent in _QUANTILES.items()
        },
        "masks_by_size": _by_size(masks),
        "masks_of_other_grey": {r.id: r.level for r in records if r.level not in (0, 255, 65535)},
        "images_without_mask": found.unannotated,
        "masks_without_image": found.without_image,
        "duplicates": [asdict(group) for group in duplicates],
        "refused": refused,
        "stops_a_training": bool(refused or not len(masks)),
    }


def _read_fold_of(path: Path) -> dict[str, int]:
    table = read_folds(path / "folds.csv" if path.is_dir() else path)
    return dict(zip(table["ImageId"], table["fold"].tolist(), strict=True))


def _check_folds(path: Path, fold_of: dict[str, int], found: FoundSamples) -> None:
    """Refuse folds of another data set, in which no duplicate can be found."""
    unknown = sorted(found.samples.keys() - fold_of.keys())
    if unknown and len(unknown) == len(found.samples):
        raise InputError(
            f"--folds {path}: has none of the {len(unknown)} images, such as {unknown[0]}, but ids "
            f"such as {min(fold_of, default='none at all')}; choose a run on this data set"
        )
    if unknown:
        print(f"{len(unknown):,} images are in no fold of {path}, the first is {unknown[0]}")


def _by_size(masks: np.ndarray) -> list[dict]:
    return [
        {"first": first, "last": last, "masks": _count_between(masks, first, last or np.inf)}
        for first, last in MASK_SIZES
    ]


def _count_between(masks: np.ndarray, first: float, last: float) -> int:
    return int(np.count_nonzero((masks >= first) & (masks <= last)))


def _lines(content: dict) -> Iterator[str]:
    images, positives = content["images"], content["positives"]
    share = f" ({positives / images:.1%})" if images else ""
    yield f"{images:,} images with a mask file, {positives:,} positive{share}"
    for size, count in content["sizes"].items():
        yield f"  {count:>8,} of {size} pixels"
    if positives:
        quantiles = (f"{name} {value:,.0f}" for name, value in content["mask_pixels"].items())
        yield f"mask size in pixels: {', '.join(quantiles).replace('_', ' ')}"
    for row in content["masks_by_size"]:
        last = f"to {row['last']:,}" if row["last"] else "or more"
        yield f"  {row['masks']:>8,} of {row['first']:,} {last}"
    yield from _listed("images without a mask file, left out", content["images_without_mask"])
    yield from _listed("mask files without an image, left out", content["masks_without_image"])
    grey = [f"{name}: {level}" for name, level in content["masks_of_other_grey"].items()]
    yield from _listed("masks with a grey level other than 255, accepted", grey)
    groups = content["duplicates"]
    yield from _listed(
        "groups of ids with identical pixels", [_describe(group) for group in groups]
    )
    if groups:
        yield _leak(groups)
    yield from _listed("problems that would stop training", content["refused"])
    yield from _cache_lines(content["cache"])
    if not images:
        yield "no image has a mask file: nothing to train on"
    elif not positives:
        yield "no image is positive, which would stop a training without --allow_empty true"


def _cache_lines(cache: dict) -> Iterator[str]:
    if cache["folder"] is None:
        yield "cache not verified: its name depends on files that cannot be opened"
        return
    if not cache["files"] and not cache["damaged"]:
        yield f"no cache of these images, which would be {cache['folder']}"
        return
    yield from _listed(
        f"of {cache['files']} files of the cache differ from their checksums", cache["damaged"]
    )
    if cache["damaged"]:
        yield f"  delete the folder {cache['folder']}: the next training builds it again"


def _listed(what: str, texts: list[str]) -> Iterator[str]:
    yield f"{len(texts):,} {what}"
    yield from (f"  {text}" for text in texts)


def _describe(group: dict) -> str:
    masks = "different masks" if group["masks_differ"] else "identical masks"
    folds = group["folds"]
    where = f", folds {', '.join(map(str, folds))}" if folds else ""
    return f"{' = '.join(group['ids'])}: {masks}{where}"


def _leak(groups: list[dict]) -> str:
    if groups[0]["folds"] is None:
        return "  pass --folds to see which of them are in different folds"
    split = sum(len(group["folds"]) > 1 for group in groups)
    return f"  {split:,} of these groups are split over several folds"
