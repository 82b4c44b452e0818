"""Loaders whose worker processes pass on each batch as one file in memory.

torch's own way takes a piece of /dev/shm and an open file for every tensor, in a thread of the
worker: where /dev/shm is small, as in Docker, or open files run out, the batch is lost there and
the loader waits for it for ever. Here a batch is one anonymous file, which is not part of /dev/shm,
and whatever goes wrong is raised by the function that makes the batch.

A worker writes a few files again and again, each once its last batch is no longer used: the system
takes five times as long for memory that it must find and clear first.
"""

import errno
import mmap
import os
import pickle
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from io import BytesIO
from multiprocessing import Queue
from multiprocessing.reduction import DupFd
from typing import Any, BinaryIO, NamedTuple, NoReturn
from weakref import finalize

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from utils.parallel import readable_start_errors, start_worker
from utils.signals import BatchLost, find_death

_MAP_FLAGS = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
_ALIGNMENT = 64
"""Bytes that every array starts at a multiple of, so that all types can be read in place. The first
of them hold the state of the file."""
_FREE, _USED = 0, 1
_LASTING_FILES = 4
"""Files that a worker keeps: torch asks it for two batches ahead, and one or two are in use."""
_SPARE_FILES = 8
"""Open files that must be left when a batch is passed on: the thread that does so needs some, and
waits for ever if it gets none."""
_SECONDS_TO_DIE = 1.0
"""Time from when a worker's connections break to when its death is known."""


class Loader:
    """Loads batches in order, in worker processes; iterate once per epoch.

    Args:
        dataset: the items.
        batches: the keys of each batch's items; iterated once per epoch.
        collate: turns a list of items into a batch, a picklable object with tensors on the CPU.
        num_workers: number of worker processes; 0 loads in this process.
        keep_workers: keep them from one epoch to the next.
    """

    def __init__(
        self,
        dataset: Dataset,
        batches: Iterable[list],
        collate: Callable[[list], Any],
        num_workers: int,
        keep_workers: bool = False,
    ):
        self.dataset = dataset
        # A generator of its own, for the seed that torch draws whenever a loader starts. Drawn from
        # the global one, it would shift the random numbers of dropout, once a process with workers
        # and once an epoch without: a resumed run would differ, and one with other --num_workers.
        # The seed itself has no effect, as every image brings its own.
        self._loader: DataLoader = DataLoader(
            dataset,
            batch_sampler=batches,
            num_workers=num_workers,
            persistent_workers=keep_workers and num_workers > 0,
            collate_fn=partial(_collate, collate),
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=start_worker,
            generator=torch.Generator().manual_seed(0),
        )

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        """Start the workers and yield their batches.

        Raises:
            InputError: open files or memory run out.
            RuntimeError: a worker died, see `utils.signals.find_death`.
        """
        with readable_start_errors():
            _check_start(self._loader.num_workers)
            batches = iter(self._loader)
        for batch in batches:
            if isinstance(batch, _Lost):
                _raise(batch)
            yield batch


def _check_start(workers: int) -> None:
    """Raise OSError if the queues of worker processes cannot be opened.

    torch's iterator prints a traceback of its own where they cannot.
    """
    with ExitStack() as stack:
        # One for the results, and for each worker one for its work and the pipes of its process.
        for _ in range(2 * workers + 1 if workers else 0):
            stack.callback(Queue().close)


def _collate(collate: Callable[[list], Any], items: list) -> Any:
    """Make a batch; in a worker, one that is ready to be sent."""
    batch = collate(items)
    if get_worker_info() is None:
        return batch
    try:
        return _SentBatch(batch, _own_files)
    except OSError as error:
        return _Lost(error.errno or errno.EIO)


class _SentBatch:
    """A batch in a file in memory; unpickling it gives the batch itself.

    Everything that can fail has been done once this object exists.

    Args:
        batch: a picklable object with tensors on the CPU.
        files: where to write it.

    Raises:
        OSError: memory or open files run out.
    """

    def __init__(self, batch: Any, files: "_Files"):
        arrays: list[pickle.PickleBuffer] = []
        content = BytesIO()
        _TensorPickler(content, protocol=5, buffer_callback=arrays.append).dump(batch)
        self._content = content.getvalue()
        with files.free() as file:
            file.write(bytes([_USED]))
            self._spans = [_append(file, array.raw()) for array in arrays]
            file.flush()
            self._handle = DupFd(file.fileno())
        _check_spare_files()

    def __reduce__(self) -> tuple:
        return _receive, (self._content, self._handle, self._spans)


class _Files:
    """The files that a worker keeps from batch to batch; the first byte of each says if it is free.

    Whoever receives a batch frees its file once the batch is gone, see `_receive`.
    """

    def __init__(self) -> None:
        self._files: list[BinaryIO] = []

    @contextmanager
    def free(self) -> Iterator[BinaryIO]:
        """Yield a file to write from its start: one that is free, else a new one."""
        file = next((file for file in self._files if _is_free(file)), None)
        if file is not None:
            file.seek(0)
            yield file
        elif len(self._files) < _LASTING_FILES:
            file = _open_memory()
            self._files.append(file)
            yield file
        else:
            with _open_memory() as file:
                yield file


_own_files = _Files()


def _is_free(file: BinaryIO) -> bool:
    return os.pread(file.fileno(), 1, 0) == bytes([_FREE])


class _TensorPickler(pickle.Pickler):
    """Pickles tensors as arrays, whose memory is kept apart as protocol 5 allows."""

    def reducer_override(self, value: Any) -> Any:
        """Return how to restore a tensor; leave the rest to pickle."""
        if isinstance(value, Tensor):
            return torch.from_numpy, (value.numpy(),)
        return NotImplemented


class _Lost(NamedTuple):
    """Takes the place of a batch that could not be sent or received.

    Attributes:
        reason: error number of the system; None if the worker broke the connection.
    """

    reason: int | None


def _raise(lost: _Lost) -> NoReturn:
    # An exception that is kept in a variable would keep this frame, and with it the workers.
    if lost.reason is None:
        # If the worker died, torch is told of it about now, and raises how it died.
        time.sleep(_SECONDS_TO_DIE)
        raise BatchLost("a worker broke the connection")
    with readable_start_errors():
        raise OSError(lost.reason, os.strerror(lost.reason))


def _receive(content: bytes, handle: Any, spans: list[tuple[int, int]]) -> Any:
    """Return the batch with its tensors in the file's memory, or `_Lost`."""
    try:
        with open(handle.detach(), "r+b") as file:
            size = max((end for _, end in spans), default=1)
            memory = mmap.mmap(file.fileno(), size, flags=_MAP_FLAGS)
    except (EOFError, ConnectionError, FileNotFoundError):
        return _Lost(None)
    except OSError as error:
        return _Lost(error.errno or errno.EIO)
    except RuntimeError as error:
        if find_death(error):
            raise
        # The system leaves a handle out of its message if this process may open no more files.
        return _Lost(errno.EMFILE)
    # All tensors of the batch lie in this array and keep it alive, and nothing else does.
    array = np.frombuffer(memory, np.uint8)
    finalize(array, memory.__setitem__, 0, _FREE).atexit = False
    return pickle.loads(content, buffers=[array[start:end] for start, end in spans])


def _open_memory() -> BinaryIO:
    """Open an anonymous file: in memory on Linux, temporary elsewhere."""
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("batch"), "wb")
    return tempfile.TemporaryFile()


def _append(file: BinaryIO, array: memoryview) -> tuple[int, int]:
    """Write an array to a file; return where it starts and ends."""
    file.write(bytes(-file.tell() % _ALIGNMENT))
    start = file.tell()
    file.write(array)
    return start, start + array.nbytes


def _check_spare_files() -> None:
    """Raise OSError if this process may open hardly any more files."""
    with ExitStack() as stack:
        for _ in range(_SPARE_FILES):
            stack.callback(os.close, os.dup(0))
