"""All speed ratios in one table, each beside a baseline that is measured in the same run.

    python -m benchmarks [--json FILE] [--dicoms DIR --rle CSV] [--only loader_512,predict]

A ratio above 1 speaks for this code. Without --dicoms, X-rays are drawn. Takes under 10 minutes on
2 cores; nothing else should run meanwhile. What each compares stands in benchmarks/README.md.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.speed import loader, predict, prepare, rle, step, threshold
from benchmarks.speed.compare import Ratio
from benchmarks.speed.data import Data, open_data
from utils.errors import InputError, command
from utils.files import write_json
from utils.parallel import usable_cores

_MEASURES: dict[str, Callable[[Data, int], Ratio]] = {
    "loader_512": lambda data, workers: loader.measure(data, 512, workers),
    "loader_1024": lambda data, workers: loader.measure(data, 1024, workers),
    "step_512": lambda data, workers: _step(data, 512, workers),
    "step_1024": lambda data, workers: _step(data, 1024, workers),
    "rle_encode": lambda data, workers: rle.measure(data),
    "threshold_search": lambda data, workers: threshold.measure(data),
    "prepare": lambda data, workers: prepare.measure(data),
    "predict": lambda data, workers: predict.measure(data, workers),
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
        write_json(given.json, {ratio.name: ratio.as_dict() for ratio in ratios})
    return 0


def _step(data: Data, size: int, workers: int) -> Ratio:
    ratio, text = step.measure(data, size, workers)
    print(text)
    return ratio


def _parse(args: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--json", type=Path, help="file to write the ratios to")
    add("--dicoms", type=Path, help="folder of DICOMs to measure with; drawn ones if not given")
    add("--rle", type=Path, help="csv of their masks")
    add("--images", type=int, default=200, help="DICOMs to take at most (200)")
    add("--only", help=f"some of {', '.join(_MEASURES)}, with commas")
    add(
        "--num_workers",
        type=int,
        default=min(8, usable_cores()),
        help="processes that load images, for both sides (at most 8, at most the cores)",
    )
    return parser.parse_args(args)


if __name__ == "__main__":
    sys.exit(main())
