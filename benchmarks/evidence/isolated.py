"""Runs a part in processes of its own, which are ended when its time is over."""

import os
import signal
import time
import traceback
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from multiprocessing import get_all_start_methods, get_context, set_start_method
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from utils.errors import one_line

Row = dict[str, Any]
Part = Callable[[Any], Iterable[Row]]


class PartFailed(Exception):
    """A part failed or was stopped; the message says how."""


def run_isolated(part: Part, context: object, seconds: float, log: Path) -> Generator[Row]:
    """Run a part in a new process and yield its rows as they come.

    Whatever the part does to the device or to memory ends with its process, and so do the processes
    that it has started.

    Args:
        part: a picklable function that yields rows.
        context: its argument.
        seconds: time after which it is stopped.
        log: file that its output is appended to.

    Raises:
        PartFailed: it raised an error, died, or was stopped.
    """
    spawn = get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_serve, args=(part, context, sender, log))
    deadline = time.monotonic() + seconds
    process.start()
    sender.close()
    try:
        while True:
            if not receiver.poll(max(0.0, deadline - time.monotonic())):
                raise PartFailed(f"stopped after {seconds:.0f} s, its share of the time")
            try:
                kind, value = receiver.recv()
            except EOFError:
                process.join()
                raise PartFailed(f"ended with exit code {process.exitcode}") from None
            if kind == "row":
                yield value
                continue
            if kind == "error":
                raise PartFailed(value)
            return
    finally:
        _end(process)


def _end(process: SpawnProcess) -> None:
    """End a part's process and those that it has started."""
    # The group has its number as long as one of them lives; before it exists, only one does.
    with suppress(ProcessLookupError):
        os.killpg(process.pid or 0, signal.SIGKILL)
    process.kill()
    process.join()


def _serve(part: Part, context: object, sender: Connection, log: Path) -> None:
    os.setsid()
    # A spawned process would spawn its own as well, and each of the workers that load images would
    # take seconds to import torch, which those of a training do not: they are forked.
    set_start_method(get_all_start_methods()[0], force=True)
    with open(log, "ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    try:
        for row in part(context):
            sender.send(("row", row))
        sender.send(("end", None))
    except BaseException as error:
        traceback.print_exc()
        sender.send(("error", describe(error)))


def describe(error: BaseException) -> str:
    """Return the kind of an error, and the end of its message as one line."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return one_line(f"{type(error).__name__}: {' / '.join(lines[-2:])}", 400)
