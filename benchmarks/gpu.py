"""Measure on a GPU all that this repository says of GPUs, with one command and in a few minutes.

    python -m benchmarks.gpu --out DIR [--minutes 8] [--data DIR]

For a machine that is lent for ten minutes, with PyTorch and without a network. In this order:
training steps on images in memory (plain float32, float32, bfloat16 with channels last: images per
second, peak memory, share of the peak arithmetic), a small two-stage training with --deterministic
that is killed and resumed (same bits), loading and how long a training waits for it, prediction,
validation, the small training in float16 with its loss scaler, what is said when memory runs out,
training steps in other ways (channels first, larger batches, float16), and compiled steps.

Every part has its own process and its share of the time. One that fails, or takes too long, is
reported and does not stop the others; one that MINUTES have no time for is left out, the last ones
first. DIR/gpu.json and DIR/gpu.md list every part and are written after every figure, DIR/log.txt
holds the output of all parts.

DATA is a prepared folder with train_images/ and train_mask/, or a folder of DICOMs with one csv of
masks, which are prepared first. Without it synthetic X-rays are drawn.

Without a GPU the same parts run on the CPU with tiny images, which shows that they run, and says
nothing about speed. Exit code 1 if a part failed.
"""

import argparse
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch

from benchmarks.evidence import speeds, trainings
from benchmarks.evidence.isolated import Part, PartFailed, Row, run_isolated
from benchmarks.evidence.results import PartResult, Results, as_line
from benchmarks.evidence.scale import NETWORKS, Context, Scale, choose_scale
from benchmarks.speed.data import Data, open_data
from datasets import prepare, sample
from datasets.siim import find_samples
from utils.commands.paths import folder_to_read
from utils.console import open_parser
from utils.errors import InputError, command
from utils.files import check_writable
from utils.parallel import usable_cores

_MOST_IMAGES = 400
_LOG = "log.txt"


class Planned(NamedTuple):
    """A part.

    Attributes:
        name: what it measures.
        part: does so.
        seconds: time that it may take.
        least: time below which it has no figure: its process imports torch, and warms up.
    """

    name: str
    part: Part
    seconds: float
    least: float


def plan(scale: Scale) -> list[Planned]:
    """Return all parts, the most important first."""
    resnet, efficient = NETWORKS
    small, large = scale.batches
    shapes = [(resnet, small), (resnet, large), (efficient, small), (efficient, large)]

    def for_shapes(name: str, part: Callable, seconds: float, least: float) -> list[Planned]:
        return [
            Planned(
                f"{name}, {network} at {size} pixels",
                partial(part, network=network, size=size),
                seconds,
                least,
            )
            for network, size in shapes
        ]

    def for_sizes(name: str, part: Callable) -> list[Planned]:
        return [
            Planned(f"{name} at {size} pixels", partial(part, size=size), 60, 20)
            for size in scale.batches
        ]

    resume = trainings.measure_resume
    return [
        *for_shapes("training steps on images in memory", speeds.measure_steps, 75, 15),
        Planned(
            "killed and resumed with --deterministic", partial(resume, precision="auto"), 150, 60
        ),
        *for_sizes("loading, and waiting for it", speeds.measure_loading),
        *for_sizes("prediction", speeds.measure_prediction),
        *for_sizes("validation", speeds.measure_validation),
        Planned(
            "killed and resumed in float16 with its loss scaler",
            partial(resume, precision="16-mixed"),
            150,
            60,
        ),
        Planned("out of memory", trainings.measure_out_of_memory, 60, 20),
        *for_shapes("training steps in other ways", speeds.measure_other_steps, 75, 15),
        *for_shapes("compiled training steps", speeds.measure_compiled, 200, 30),
    ]


@command
def main(args: list[str] | None = None) -> int:
    """Measure every part; return the exit code.

    Raises:
        InputError: the data cannot be used, or the folder cannot be written to.
    """
    deadline = time.monotonic()
    given = _parse(args)
    deadline += 60 * given.minutes
    check_writable(given.out)
    given.out.mkdir(parents=True, exist_ok=True)
    scale = choose_scale()
    planned = plan(scale)
    parts = [PartResult(part.name) for part in planned]
    results = Results(given.out, describe_machine() | {"minutes": given.minutes}, parts)
    results.write()
    (given.out / _LOG).write_bytes(b"")
    print(f"GPU: {results.machine['GPU']}", flush=True)
    with open_xrays(given.data, scale) as data:
        cores = usable_cores()
        context = Context(scale, data, min(8, cores), cores, 60 * given.minutes)
        for part, result in zip(planned, parts, strict=True):
            _run(part, result, context, results, deadline)
    print(f"written: {given.out / 'gpu.md'}, {given.out / 'gpu.json'}")
    return 1 if any(part.error for part in parts) else 0


def describe_machine() -> Row:
    """Return names and versions, and whether there is a GPU."""
    row: Row = {"python": platform.python_version(), "torch": torch.__version__}
    row["cores"] = usable_cores()
    if not torch.cuda.is_available():
        return {"GPU": "none: tiny images on the CPU, no figures of speed"} | row
    properties = torch.cuda.get_device_properties(0)
    row |= {"CUDA": torch.version.cuda, "memory, GiB": properties.total_memory / 2**30}
    return {"GPU": properties.name} | row


@contextmanager
def open_xrays(folder: Path | None, scale: Scale) -> Iterator[Data]:
    """Open prepared X-rays, prepare DICOMs, or draw synthetic X-rays, in a temporary folder.

    Raises:
        InputError: the folder holds neither prepared images nor DICOMs with one csv of masks.
    """
    if folder is not None and not (folder / "train_images").is_dir():
        with open_data(folder, _find_masks(folder), _MOST_IMAGES) as data:
            yield data
        return
    with TemporaryDirectory() as name:
        temporary, dicoms = Path(name), []
        if folder is None:
            drawn = temporary / "synthetic"
            count, side = str(scale.xrays), str(scale.side)
            # Few images are drawn sooner than processes start.
            workers = str(min(usable_cores(), scale.xrays // 12))
            words = ["--count", count, "--size", side, "--num_workers", workers]
            sample.main(["--out", str(drawn), *words])
            prepare.main(["--images", str(drawn / "dicom-images-train"), "--out", str(drawn)])
            dicoms, folder = sorted((drawn / "dicom-images-train").rglob("*.dcm")), drawn
        yield Data(dicoms, find_samples(folder)[0], temporary)


def _find_masks(folder: Path) -> Path:
    found = [path for path in sorted(folder.glob("*.csv")) if path.name != "patients.csv"]
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise InputError(
            f"--data {folder}: has no train_images/, so it needs DICOMs and exactly one csv of "
            f"their masks beside patients.csv; found: {names}"
        )
    return found[0]


def _run(
    planned: Planned, result: PartResult, base: Context, results: Results, deadline: float
) -> None:
    """Run a part in the time that is left, and write every row as it comes."""
    started, log = time.monotonic(), results.folder / _LOG
    seconds = min(planned.seconds, deadline - started)
    print(f"\n{planned.name}", flush=True)
    if seconds < planned.least:
        needed, left = f"{planned.least:.0f} s", f"{max(0.0, seconds):.0f} s"
        result.left_out = f"not enough time: it needs {needed}, and {left} were left"
        print(f"  left out: {result.left_out}", flush=True)
        results.write()
        return
    result.left_out = None
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"\n== {planned.name}\n")
    try:
        context = replace(base, seconds=seconds)
        for row in run_isolated(planned.part, context, seconds, log):
            result.rows.append(row)
            result.seconds = time.monotonic() - started
            print(f"  {as_line(row)}", flush=True)
            results.write()
    except PartFailed as error:
        result.error = str(error)
        print(f"  {result.error}", flush=True)
    result.seconds = time.monotonic() - started
    results.write()


def _parse(args: list[str] | None) -> argparse.Namespace:
    parser = open_parser("python -m benchmarks.gpu", __doc__)
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder for gpu.json, gpu.md and log.txt")
    add("--minutes", type=float, default=8, help="time for everything (default: 8)")
    folder = folder_to_read("--data", "a folder of prepared X-rays, or of DICOMs and their masks")
    add("--data", type=folder, help="folder of X-rays (default: synthetic ones)")
    return parser.parse_args(args)


if __name__ == "__main__":
    sys.exit(main())
