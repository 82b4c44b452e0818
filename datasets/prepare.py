"""Turn downloaded images and a csv of run lengths into the folders that training reads.

    python -m datasets.prepare --images dicom-images-train --rle train-rle.csv
    python -m datasets.prepare --images stage_1 --rle stage_2_train.csv --out datasets/SIIM_data
    python -m datasets.prepare --images dicom-images-test --split test
    python -m datasets.prepare --images sample --split sample

IMAGES is searched at any depth for .dcm, .png and .jpg. Expect 200 to 400 images per second on two
cores; a second run finds most of its work done. On disk appear, below OUT:

    train_images/<id>.jpg|png   8-bit grey. The JPEG inside a DICOM is written out byte for byte, an
                                8-bit grey JPEG or PNG is copied, anything else becomes a PNG.
    train_mask/<id>.png         0 and 255, at the size of the image; all rows of an image are joined
    train_unannotated.txt       only where they are too many to print: images that are left out
    train_refused.txt           because the csv has no row for them, and those that cannot be used

(test_images/; sample_images/ and sample_mask/ for the other splits.) An image without a row is
unannotated, never a negative. What is unannotated or refused does not stay in OUT from an earlier
run; other images do, so several folders can be prepared into one OUT, one after the other. Files
with the same id and the same pixels count once; with different pixels all of them are refused.

Exit code: 0; 1 where an image was refused (the others are made); 2 where nothing could be done.
"""

import argparse
import functools
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import cv2
from tqdm import tqdm

from datasets.formats.annotations import read_annotations
from datasets.formats.images import SUFFIXES, find_images, image_id
from datasets.tools.convert import Job, Outcome, convert, remove
from utils.errors import InputError, command
from utils.files import atomic_write
from utils.parallel import usable_cores

HANDFUL = 20
# Starting a process costs about as much as preparing this many images.
IMAGES_PER_PROCESS = 64


class Split(NamedTuple):
    """Names below OUT: the two folders and the csv that is read unless another is given."""

    images: str
    masks: str | None = None
    rle: str | None = None


SPLITS = {
    "train": Split("train_images", "train_mask", "train-rle.csv"),
    "test": Split("test_images"),
    "sample": Split("sample_images", "sample_mask", "train-rle-sample.csv"),
}


class Report(NamedTuple):
    """What became of all; `absent` counts ids of the csv that have no image."""

    outcomes: list[Outcome]
    unannotated: list[str]
    refused: list[str]
    absent: int


@command
def main(args: list[str] | None = None) -> int:
    """Run the command line."""
    options, started = _parse(args), time.perf_counter()
    try:
        report = prepare(
            options.images, options.out, options.split, options.rle, options.num_workers
        )
        _print(report, options.out, options.split, time.perf_counter() - started)
    except KeyboardInterrupt:
        print("interrupted: every file there is whole, and the same command goes on from here")
        return 130
    except OSError as error:
        raise InputError(f"{options.out}: cannot be written to ({error})") from error
    return 1 if report.refused else 0


def prepare(
    images: Path, out: Path, split: str = "train", rle: Path | None = None, num_workers: int = 0
) -> Report:
    """Fill the folders of one split.

    Args:
        images: folder of the originals.
        out: folder that holds the folders of all splits.
        split: a key of `SPLITS`.
        rle: csv of the masks; the split's own by default.
        num_workers: processes at most; 0 works in this one.

    Raises:
        InputError: there are no images, the csv is unusable, or none of its rows fits an image.
    """
    names = SPLITS[split]
    folders = [out / name for name in (names.images, names.masks) if name]
    paths = _find_originals(images, folders)
    csv = rle or (out / names.rle if names.rle else None)
    rows = read_annotations(csv) if csv else {}
    with _processes(min(num_workers, len(paths) // IMAGES_PER_PROCESS)) as run:
        files, refused = _identify(run, paths)
        chosen = [name for name in files if csv is None or name in rows]
        if files and not chosen:
            raise InputError(f"{csv}: has no row for any of the {len(files)} images of {images}")
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        unannotated = sorted(set(files) - set(chosen))
        for name in unannotated:
            remove(name, folders)
        jobs = [Job(name, files[name], folders, rows.get(name, []), csv) for name in chosen]
        outcomes = list(_progress(run(convert, jobs), len(jobs), "converting"))
    refused += [outcome.refused for outcome in outcomes if outcome.refused]
    return Report(outcomes, unannotated, refused, len(set(rows) - set(files)))


def _parse(args: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m datasets.prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--images", type=Path, required=True, help="folder of .dcm, .png or .jpg at any depth")
    add("--rle", type=Path, help="csv of masks (OUT/train-rle.csv; sample: train-rle-sample.csv)")
    add("--split", choices=SPLITS, default="train", help="which folders to fill (train)")
    add("--out", type=Path, default=Path("datasets/SIIM_data"), help="(datasets/SIIM_data)")
    add("--num_workers", type=int, default=usable_cores(), help="processes; 0 is none (all cores)")
    options = parser.parse_args(args)
    if options.rle and SPLITS[options.split].masks is None:
        parser.error(f"--split {options.split} has no masks, so --rle has no meaning there")
    if options.num_workers < 0:
        parser.error(f"--num_workers {options.num_workers} is below 0")
    return options


def _find_originals(images: Path, folders: list[Path]) -> list[Path]:
    source = images.resolve()
    for folder in folders:
        target = folder.resolve()
        if source == target or source in target.parents or target in source.parents:
            raise InputError(f"{images}: overlaps {folder}, which is written to; keep them apart")
    paths = find_images(images)
    if not paths:
        raise InputError(f"{images}: has no {', '.join(SUFFIXES)} files at any depth")
    return paths


@contextmanager
def _processes(count: int) -> Iterator[Callable[..., Iterable]]:
    if count < 1:
        yield map
        return
    # Forking a process that has threads (torch, OpenCV) can hang.
    pool = ProcessPoolExecutor(count, get_context("spawn"), _start_process)
    try:
        yield functools.partial(pool.map, chunksize=16)
    finally:
        pool.shutdown(cancel_futures=True)


def _start_process() -> None:
    # On Ctrl-C the main process stops handing out work; what is begun is finished.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(0)


def _progress(results: Iterable, total: int, what: str) -> Iterable:
    return tqdm(results, total=total, desc=what, unit="image", disable=None)


def _identify(run: Callable[..., Iterable], paths: list[Path]) -> tuple[dict, list[str]]:
    files, refused = defaultdict(list), []
    names = _progress(run(_id_or_refusal, paths), len(paths), "reading ids")
    for path, (name, refusal) in zip(paths, names, strict=True):
        if refusal:
            refused.append(refusal)
        else:
            files[name].append(path)
    return files, refused


def _id_or_refusal(path: Path) -> tuple[str, str]:
    try:
        return image_id(path), ""
    except InputError as error:
        return "", str(error)


def _print(report: Report, out: Path, split: str, seconds: float) -> None:
    done = [outcome for outcome in report.outcomes if not outcome.refused]
    made = sum(outcome.made for outcome in done)
    positive = sum(outcome.positive for outcome in done)
    copies = sum(outcome.copies for outcome in done)
    _list("unannotated, left out", report.unannotated, out / f"{split}_unannotated.txt")
    _list("refused", report.refused, out / f"{split}_refused.txt")
    if copies:
        print(f"{copies} files have the id and the pixels of another and were passed over")
    if report.absent:
        print(f"{report.absent} ids of the csv have no image here")
    print(
        f"{out / SPLITS[split].images}: {made} images made, {len(done) - made} already there"
        + (f", {positive} positive" if SPLITS[split].masks else "")
        + f"; {len(report.unannotated)} unannotated, {len(report.refused)} refused; "
        f"{seconds:.1f} s, {len(done) / seconds:.0f} images/s"
    )


def _list(what: str, lines: list[str], path: Path) -> None:
    path.unlink(missing_ok=True)
    if len(lines) > HANDFUL:
        with atomic_write(path, flush=False) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{len(lines)} {what}: listed in {path}")
    else:
        for line in lines:
            print(f"{what}: {line}")


if __name__ == "__main__":
    sys.exit(main())
