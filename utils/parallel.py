"""Running work in threads or in processes, with results in order."""

import errno
import os
import resource
import shutil
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context, parent_process
from typing import TypeVar

import cv2

from utils.errors import InputError
from utils.signals import Death

Item = TypeVar("Item")
Result = TypeVar("Result")

_PENDING_PER_THREAD = 4
_SHARED_MEMORY = "/dev/shm"
_MB = 2**20


def usable_cores() -> int:
    """Count the cores of this process; containers and batch jobs often get fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_in_order(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Apply `work` to every item in one thread per core, and yield the results in item order.

    Meant for work that releases the GIL, such as decoding with OpenCV. Only a few results per
    thread are pending, so memory does not grow with the number of items. The first error is raised
    and cancels the work that has not started.
    """
    threads = usable_cores()
    pool = ThreadPoolExecutor(threads)
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) > _PENDING_PER_THREAD * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def open_processes(count: int, chunksize: int = 1) -> Iterator[Callable[..., Iterable]]:
    """Start processes for work that holds the GIL.

    Args:
        count: number of processes; below 1, the work is done in this process.
        chunksize: number of items that a process is given at a time.

    Yields:
        A function like `map`, with its results in order.

    Raises:
        InputError: a process cannot be started, or died.
    """
    if count < 1:
        yield map
        return
    with readable_start_errors():
        # Forking a process that has threads (torch, OpenCV) can hang.
        pool = ProcessPoolExecutor(count, get_context("spawn"), start_worker)
    try:
        yield partial(_submit, pool, chunksize)
    except BrokenProcessPool as error:
        raise InputError(
            f"one of {count} worker processes ended unexpectedly, most often because the kernel "
            "killed it when memory was short. Files written so far are complete: run the command "
            "again, with fewer --num_workers"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def start_worker(*_: object) -> None:
    """Initialise a worker: OpenCV starts no threads, and Ctrl-C is left to the main process."""
    parent = parent_process()
    if parent is not None and parent.pid != os.getppid():
        # torch's worker takes whoever is its parent here for the main process, and waits for ever
        # if that was killed before.
        os._exit(1)
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # torch prints that shared memory is short, whatever file could not be read.
    signal.signal(signal.SIGBUS, signal.SIG_DFL)


@contextmanager
def readable_start_errors() -> Iterator[None]:
    """Say what worker processes lack if they cannot be started or cannot pass on their results.

    Raises:
        InputError: the block raised OSError.
    """
    try:
        yield
    except OSError as error:
        raise InputError(describe_lack(error)) from error


def describe_lack(error: OSError) -> str:
    """Say which resource of the system is used up, and what to do about it."""
    advice = "Then run the command again (to continue a training, with --resume true)"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return (
            f"too many open files: worker processes need more than the limit of {limit}. Raise it "
            f"with ulimit -n {max(4096, 4 * limit)}, or use fewer --num_workers (0 needs none). "
            f"{advice}"
        )
    return (
        f"worker processes cannot be used ({error.strerror or error}); {describe_shared_memory()}. "
        "Give a container more with docker run --shm-size 1g, or use --num_workers 0, which needs "
        f"none. {advice}"
    )


def describe_death(death: Death) -> str:
    """Say how a worker process died, and why it may have."""
    if not death.bus_error:
        return f"a worker process {death.cause}"
    return (
        f"a worker process {death.cause}. Either a file that it maps into memory could not be "
        f"read, or shared memory was full; {describe_shared_memory()} at present (docker run "
        "--shm-size 1g gives more)"
    )


def describe_shared_memory() -> str:
    """Say how large shared memory is, and how much of it is free."""
    try:
        usage = shutil.disk_usage(_SHARED_MEMORY)
    except OSError as error:
        return f"shared memory, {_SHARED_MEMORY}, is missing ({error.strerror})"
    return (
        f"shared memory, {_SHARED_MEMORY}, has {usage.free / _MB:,.1f} of {usage.total / _MB:,.1f} "
        "MB free"
    )


def _submit(
    pool: ProcessPoolExecutor, chunksize: int, work: Callable[..., Result], items: Iterable
) -> Iterator[Result]:
    # All items are submitted here, which starts the processes.
    with readable_start_errors():
        return pool.map(work, items, chunksize=chunksize)
