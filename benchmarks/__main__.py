"""Measure all speed ratios, each against a baseline timed in the same run, and print a table.

    python -m benchmarks [--json FILE] [--dicoms DIR --rle CSV] [--only loader_512,predict_512]

A ratio above 1 means that this code is faster. Without --dicoms, synthetic X-rays are used. Takes
under 10 minutes on 2 cores, on an otherwise idle machine. benchmarks/README.md describes what is
compared.
"""

import argparse
import sys
from collections.abc import Callable

from benchmarks.speed import loader, predict, prepare, rle, startup, step, threshold
from benchmarks.speed.compare import Ratio
from benchmarks.speed.data import Data, open_data
from utils.commands.paths import file_to_read, file_to_write, folder_to_read
from utils.console import open_parser
from utils.errors import InputError, command
from utils.files import write_json, write_output
from utils.parallel import usable_cores

_MEASURES: dict[str, Callable[[Data, int], Ratio]] = {
    "loader_512": lambda data, workers: loader.measure(data, 512, workers),
    "loader_1024": lambda data, workers: loader.measure(data, 1024, workers),
    "step_512": lambda data, workers: _step(data, 512, workers),
    "step_1024": lambda data, workers: _step(data, 1024, workers),
    "rle_encode": lambda data, workers: rle.measure(data),
    "threshold_search": lambda data, workers: threshold.measure(data),
    "prepare": lambda data, workers: prepare.measure(data),
    "predict_512": lambda data, workers: predict.measure(data, workers, 512),
    "predict_1024": lambda data, workers: predict.measure(data, workers, 1024),
    "predict_onnx": lambda data, workers: predict.measure_onnx(data, workers),
    "help": lambda data, workers: startup.measure(),
}


@command
def main(args: list[str] | None = None) -> int:
    """Measure, print the table and write the JSON file.

    Returns:
        The exit code, 0.

    Raises:
        InputError: a name is unknown, or the X-rays cannot be used.
    """
    given = _parse(args)
    names = given.only.split(",") if given.only else list(_MEASURES)
    unknown = [name for name in names if name not in _MEASURES]
    if unknown:
        raise InputError(f"--only {unknown[0]}: is not one of {', '.join(_MEASURES)}")
    with open_data(given.dicoms, given.rle, given.images) as data:
        ratios = [_MEASURES[name](data, given.num_workers) for name in names]
    print(f"\n{'comparison':<18}{'ours':>10}{'baseline':>10}{'ratio':>8}  unit")
    for r in ratios:
        print(f"{r.name:<18}{r.ours:>10.4g}{r.baseline:>10.4g}{r.ratio:>8.4g}  {r.unit}")
    if given.json:
        write_json(given.json, {ratio.name: ratio.as_dict() for ratio in ratios}, write_output)
    return 0


def _step(data: Data, size: int, workers: int) -> Ratio:
    ratio, text = step.measure(data, size, workers)
    print(text)
    return ratio


def _parse(args: list[str] | None) -> argparse.Namespace:
    parser = open_parser("python -m benchmarks", __doc__)
    add = parser.add_argument
    add(
        "--json",
        type=file_to_write("--json"),
        help="JSON file to write the ratios to (default: none)",
    )
    add(
        "--dicoms",
        type=folder_to_read("--dicoms", "a folder of DICOMs"),
        help="folder of DICOMs to measure with (default: synthetic ones)",
    )
    add(
        "--rle",
        type=file_to_read("--rle", "a csv of masks"),
        help="csv of their masks, needed with --dicoms",
    )
    add("--images", type=int, default=200, help="maximum number of DICOMs to use (default: 200)")
    add("--only", help=f"comma-separated names (default: all of {', '.join(_MEASURES)})")
    add(
        "--num_workers",
        type=int,
        default=min(8, usable_cores()),
        help="data loading processes on both sides (default: number of cores, at most 8)",
    )
    given = parser.parse_args(args)
    if (given.dicoms is None) != (given.rle is None):
        parser.error("--dicoms and --rle go together; give both, or none for synthetic X-rays")
    return given


if __name__ == "__main__":
    sys.exit(main())
