"""Train a tiny configuration for hundreds of epochs and watch for leaks.

    python -m benchmarks.soak [--epochs 300]

Prints anonymous memory of the training process and of its workers, number of open files and number
of workers, at epoch 10 and at nine later epochs. Exit code 1 if one of them is more than 5 % above
its value at epoch 10 in all of the last three: a single higher count of files is no leak, since a
batch on its way from a worker is an open file for a moment. Needs Linux.
"""

import os
import re
import sys
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.robustness.runs import fold_folder, small_data, start
from utils.console import open_parser

_IMAGES = 16
_FIRST = 10
"""Epoch of the first sample; memory still grows before."""
_TOLERANCE = 1.05
_KIB_PER_MIB = 1024


class Usage(NamedTuple):
    """Resources of a training process.

    Attributes:
        epoch: number of completed epochs.
        memory: anonymous memory of the process, in MiB.
        workers_memory: anonymous memory of all its workers together, in MiB.
        files: number of open file descriptors of the process.
        workers: number of its workers.
    """

    epoch: int
    memory: float
    workers_memory: float
    files: int
    workers: int


def sample(process: int, log: Path) -> Usage:
    """Read the resources of a training process and its workers."""
    epochs = len(re.findall(r"epoch \d+/\d+: loss", log.read_text()))
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    files = len(os.listdir(f"/proc/{process}/fd"))
    workers_memory = sum(map(_anonymous, children))
    return Usage(epochs, _anonymous(process), workers_memory, files, len(children))


def _anonymous(process: int | str) -> float:
    """Return the anonymous memory of a process, which excludes the mapped cache, in MiB."""
    status = Path(f"/proc/{process}/status").read_text()
    (kib,) = re.findall(r"RssAnon:\s+(\d+) kB", status)
    return int(kib) / _KIB_PER_MIB


def follow(process: int, log: Path, epochs: int) -> list[Usage]:
    """Sample a run at ten epochs from `_FIRST` to the last but one, until it ends."""
    samples: list[Usage] = []
    marks = [_FIRST + round(i * (epochs - 1 - _FIRST) / 9) for i in range(10)]
    while os.waitpid(process, os.WNOHANG) == (0, 0):
        time.sleep(0.02)
        if len(samples) < len(marks) and log.exists():
            usage = sample(process, log)
            if usage.epoch >= marks[len(samples)]:
                samples.append(usage)
    return samples


def main() -> int:
    """Print the table; return the exit code."""
    parser = open_parser("python -m benchmarks.soak", __doc__)
    parser.add_argument(
        "--epochs", type=int, default=300, help="number of epochs, 30 or more (default: 300)"
    )
    epochs = parser.parse_args().epochs
    with small_data(_IMAGES) as folder:
        flags = {"epoch_stage1": str(epochs), "two_stage": "false", "num_workers": "2"}
        process = start(folder, "soak", flags)
        samples = follow(process, fold_folder(folder, "soak") / "log.txt", epochs)
    print("epoch  memory MiB  workers' memory MiB  files  workers")
    for usage in samples:
        print(
            f"{usage.epoch:5d}  {usage.memory:10.1f}  {usage.workers_memory:19.1f}  "
            f"{usage.files:5d}  {usage.workers:7d}"
        )
    grown = [
        name
        for name in Usage._fields[1:]
        if min(getattr(usage, name) for usage in samples[-3:])
        > _TOLERANCE * getattr(samples[0], name)
    ]
    print(f"grown: {', '.join(grown)}" if grown else "nothing has grown")
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
