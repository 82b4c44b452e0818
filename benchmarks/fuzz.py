"""Give every reader of files damaged ones: each has to be read or refused by an InputError.

    python -m benchmarks.fuzz [--examples N] [--readers rle,csv,...] [--seed 0]

Takes about 20 minutes on one core. Each reader works in a process of its own, of which the memory
is told that it needed beyond its start. A file that raises anything else is a crash: its number is
printed, and `--readers NAME --only NUMBER` reads it again, with the traceback.

Exit code: 0; 1 where a reader crashed.
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
from utils.errors import InputError, command
from utils.memory import peak_memory

_SHOWN = 5


@dataclass(frozen=True)
class Result:
    """What a reader did.

    Attributes:
        counts: of files read, refused and crashed on.
        crashes: the first few, each its number and error.
        seconds: of the slowest file.
        slowest: its number.
        memory: needed beyond the start, in GiB.
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
        return _read_again(READERS[names[0]], options.seed, options.only)
    print(f"{'reader':<12}{'read':>9}{'refused':>9}{'crashed':>9}{'slowest s':>11}{'GiB':>7}")
    crashed = False
    for name in names:
        result = _run_apart(name, options.examples or READERS[name].examples, options.seed)
        crashed |= _print(name, result)
    return int(crashed)


def fuzz(name: str, examples: int, seed: int) -> Result:
    """Hand a reader damaged files and see what it does.

    Args:
        name: a key of `READERS`.
        examples: number of files.
        seed: of the damage; file i of a seed is always the same.
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
            if crash and len(crashes) < _SHOWN:
                crashes.append(f"--readers {name} --seed {seed} --only {number}: {crash}")
    return Result(counts, crashes, *slowest, peak_memory() - before)


def damaged(reader: Reader, seeds: list[bytes], seed: int, number: int) -> bytes:
    """Make file `number` of a reader from its `seeds`; it depends on nothing else than `seed`."""
    return reader.wrap(mutate(seeds, np.random.default_rng([seed, number])))


def _outcome(reader: Reader, path: Path, counts: Counter) -> str:
    try:
        reader.read(path)
    except InputError:
        counts["refused"] += 1
    except Exception as error:  # to find out which other kinds there are is what this is for
        counts["crashed"] += 1
        return repr(error)[:200]
    else:
        counts["read"] += 1
    return ""


def _run_apart(name: str, examples: int, seed: int) -> Result:
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        try:
            return process.submit(fuzz, name, examples, seed).result()
        except BrokenProcessPool:
            return Result(Counter(crashed=1), [f"{name}: the process was ended"], 0.0, 0, 0.0)


def _print(name: str, result: Result) -> bool:
    counts = result.counts
    numbers = f"{counts['read']:>9,}{counts['refused']:>9,}{counts['crashed']:>9,}"
    print(f"{name:<12}{numbers}{result.seconds:>11.3f}{result.memory:>7.2f}", flush=True)
    for crash in result.crashes:
        print(f"  {crash}")
    return counts["crashed"] > 0


def _read_again(reader: Reader, seed: int, number: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, reader.name)
        path.write_bytes(damaged(reader, reader.seeds(), seed, number))
        print(reader.read(path))
    return 0


def _parse(args: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--examples", type=int, help="files for each reader (as many as take about two minutes)")
    add("--readers", help=f"some of {', '.join(READERS)}, with commas")
    add("--seed", type=int, default=0, help="another one damages the files otherwise (0)")
    add("--only", type=int, help="number of the one file to read, with its traceback")
    return parser.parse_args(args)


if __name__ == "__main__":
    sys.exit(main())
