"""Parts for benchmarks.evidence.isolated, which are looked up by name in a process of their own."""

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator

from benchmarks.evidence.isolated import Row


def measures(context: int) -> Iterator[Row]:
    """Yield two rows, and print a line."""
    print("a line of the part")
    yield {"value": context}
    yield {"value": context + 1}


def names_start_method(context: int) -> Iterator[Row]:
    """Yield how this process starts others."""
    yield {"method": multiprocessing.get_start_method()}


def fails(context: int) -> Iterator[Row]:
    """Yield a row, then fail."""
    yield {"value": context}
    raise ValueError("first line\nthe last line")


def dies(context: int) -> Iterator[Row]:
    """Yield a row, then end without a word."""
    yield {"value": context}
    os._exit(3)


def hangs(context: int) -> Iterator[Row]:
    """Start a process, yield its number, and wait for ever."""
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield {"process": sleeper.pid}
    time.sleep(600)
