"""Trains a tiny configuration for hundreds of epochs and watches what a leak would raise.

    python -m benchmarks.soak [--epochs 300]

Prints memory that is not shared with the cache (of the training process and of its workers), open
files and number of workers, at the tenth epoch and at nine later ones. Exit code 1 if one of them
is more than a twentieth above what it was at the tenth in all of the last three: batches on
their way from a worker are open files for a moment. Needs Linux.
"""

import argparse
import os
import re
import sys
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.robustness.runs import fold_folder, small_data, start

_IMAGES = 16
_FROM = 10
_TOLERANCE = 1.05
_MIB = 1024


class Usage(NamedTuple):
    """What a training process holds.

    Attributes:
        epoch: how many epochs are done.
        memory: anonymous memory of the process, MiB.
        workers_memory: that of all its workers together, MiB.
        files: open files and other handles of the process.
        workers: how many it has.
    """

    epoch: int
    memory: float
    workers_memory: float
    files: int
    workers: int


def look(process: int, log: Path) -> Usage:
    """Look at a training process and its workers."""
    epochs = len(re.findall(r"epoch \d+/\d+: loss", log.read_text()))
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    files = len(os.listdir(f"/proc/{process}/fd"))
    workers_memory = sum(map(_anonymous, children))
    return Usage(epochs, _anonymous(process), workers_memory, files, len(children))


def _anonymous(process: int | str) -> float:
    """Give the memory of a process that no file stands behind, in MiB."""
    status = Path(f"/proc/{process}/status").read_text()
    (kilobytes,) = re.findall(r"RssAnon:\s+(\d+) kB", status)
    return int(kilobytes) / _MIB


def follow(process: int, log: Path, epochs: int) -> list[Usage]:
    """Look at a run at its tenth epoch and at each tenth of those behind it, until it ends."""
    seen: list[Usage] = []
    marks = [_FROM + round(i * (epochs - 1 - _FROM) / 9) for i in range(10)]
    while os.waitpid(process, os.WNOHANG) == (0, 0):
        time.sleep(0.02)
        if len(seen) < len(marks) and log.exists():
            usage = look(process, log)
            if usage.epoch >= marks[len(seen)]:
                seen.append(usage)
    return seen


def main() -> int:
    """Print the table; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--epochs", type=int, default=300, help="at least 30 (300)")
    epochs = parser.parse_args().epochs
    with small_data(_IMAGES) as folder:
        flags = {"epoch_stage1": str(epochs), "two_stage": "false", "num_workers": "2"}
        process = start(folder, "soak", flags)
        seen = follow(process, fold_folder(folder, "soak") / "log.txt", epochs)
    print("epoch  memory MiB  workers' memory MiB  files  workers")
    for usage in seen:
        print(
            f"{usage.epoch:5d}  {usage.memory:10.1f}  {usage.workers_memory:19.1f}  "
            f"{usage.files:5d}  {usage.workers:7d}"
        )
    grown = [
        name
        for name in Usage._fields[1:]
        if min(getattr(usage, name) for usage in seen[-3:]) > _TOLERANCE * getattr(seen[0], name)
    ]
    print(f"grown: {', '.join(grown)}" if grown else "nothing has grown")
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
