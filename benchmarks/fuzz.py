"""Fuzz every file reader: each damaged file must be read or refused with an InputError.

    python -m benchmarks.fuzz [--examples N] [--readers rle,csv,...] [--seed 0]

Takes about 20 minutes on one core. Each reader runs in its own process, whose memory growth is
printed. Any other exception counts as a crash: the number of the file is printed, and
`--readers NAME --only NUMBER` reads that file again and shows the traceback.

Exit code: 0, or 1 if a reader crashed.
"""

import argparse
import sys
import tempfile
import time
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from benchmarks.robustness.mutations import mutate
from benchmarks.robustness.readers import READERS, Reader
from utils.console import open_parser
from utils.errors import InputError, command
from utils.memory import peak_memory

_MAX_CRASHES = 5
"""Crashes of a reader to list."""


@dataclass(frozen=True)
class Result:
    """The result of fuzzing one reader.

    Attributes:
        counts: number of files by outcome: read, refused, crashed.
        crashes: number of the file and error of the first few crashes.
        seconds: time for the slowest file.
        slowest: number of the slowest file.
        memory: growth of the peak memory, in GiB.
    """

    counts: Counter
    crashes: list[str]
    seconds: float
    slowest: int
    memory: float


@command
def main(args: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    options = _parse(args)
    names = options.readers.split(",") if options.readers else list(READERS)
    unknown = [name for name in names if name not in READERS]
    if unknown:
        raise InputError(f"--readers {unknown[0]}: is not one of {', '.join(READERS)}")
    if options.only is not None:
        return _reread(READERS[names[0]], options.seed, options.only)
    print(f"{'reader':<12}{'read':>9}{'refused':>9}{'crashed':>9}{'slowest s':>11}{'GiB':>7}")
    crashed = False
    for name in names:
        result = _fuzz_in_process(name, options.examples or READERS[name].examples, options.seed)
        crashed |= _print(name, result)
    return int(crashed)


def fuzz(name: str, examples: int, seed: int) -> Result:
    """Call a reader on damaged files and count the outcomes.

    Args:
        name: a key of `READERS`.
        examples: number of files.
        seed: seed of the damage; file i of a seed is always the same.
    """
    warnings.simplefilter("ignore")
    counts: Counter[str] = Counter()
    crashes: list[str] = []
    slowest = (0.0, 0)
    reader, before = READERS[name], peak_memory()
    seeds = reader.seeds()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, reader.name)
        for number in range(examples):
            path.write_bytes(damaged(reader, seeds, seed, number))
            started = time.perf_counter()
            crash = _outcome(reader, path, counts)
            slowest = max(slowest, (time.perf_counter() - started, number))
            if crash and len(crashes) < _MAX_CRASHES:
                crashes.append(f"--readers {name} --seed {seed} --only {number}: {crash}")
    return Result(counts, crashes, *slowest, peak_memory() - before)


def damaged(reader: Reader, seeds: list[bytes], seed: int, number: int) -> bytes:
    """Return file `number` of a reader, damaged from its `seeds`; it only depends on `seed`."""
    return reader.wrap(mutate(seeds, np.random.default_rng([seed, number])))


def _outcome(reader: Reader, path: Path, counts: Counter) -> str:
    try:
        reader.read(path)
    except InputError:
        counts["refused"] += 1
    except Exception as error:  # finding any other kind is the purpose of fuzzing
        counts["crashed"] += 1
        return repr(error)[:200]
    else:
        counts["read"] += 1
    return ""


def _fuzz_in_process(name: str, examples: int, seed: int) -> Result:
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        try:
            return process.submit(fuzz, name, examples, seed).result()
        except BrokenProcessPool:
            return Result(Counter(crashed=1), [f"{name}: the process died"], 0.0, 0, 0.0)


def _print(name: str, result: Result) -> bool:
    counts = result.counts
    numbers = f"{counts['read']:>9,}{counts['refused']:>9,}{counts['crashed']:>9,}"
    print(f"{name:<12}{numbers}{result.seconds:>11.3f}{result.memory:>7.2f}", flush=True)
    for crash in result.crashes:
        print(f"  {crash}")
    return counts["crashed"] > 0


def _reread(reader: Reader, seed: int, number: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, reader.name)
        path.write_bytes(damaged(reader, reader.seeds(), seed, number))
        print(reader.read(path))
    return 0


def _parse(args: list[str] | None) -> argparse.Namespace:
    parser = open_parser("python -m benchmarks.fuzz", __doc__)
    add = parser.add_argument
    add("--examples", type=int, help="files per reader (default: about two minutes of them)")
    add("--readers", help=f"comma-separated names (default: all of {', '.join(READERS)})")
    add("--seed", type=int, default=0, help="seed of the damage (default: 0)")
    add("--only", type=int, help="number of a single file to read, with traceback")
    return parser.parse_args(args)


if __name__ == "__main__":
    sys.exit(main())
