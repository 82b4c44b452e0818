"""Peak memory of a process, and readable out-of-memory errors."""

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from utils.errors import InputError

_GIB = 2**30
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def peak_memory() -> float:
    """Return the peak resident memory of this process, in GiB."""
    bytes_per_unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * bytes_per_unit / _GIB


def peak_gpu_memory() -> float:
    """Return the peak GPU memory allocated by this process, in GiB; 0 without a GPU."""
    return torch.cuda.max_memory_allocated() / _GIB if torch.cuda.is_available() else 0.0


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error means that GPU or CPU memory is exhausted."""
    # The CPU allocator raises a plain RuntimeError.
    return any(words in str(error) for words in _OUT_OF_MEMORY)


@contextmanager
def readable_memory_errors() -> Iterator[None]:
    """Turn an out-of-memory error of a prediction into advice.

    Raises:
        InputError: memory is exhausted.
    """
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise InputError(f"out of memory; try a smaller --batch_size ({error})") from error
        raise
