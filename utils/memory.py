"""How much memory a process has needed, and what to do where it was too little."""

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from utils.errors import InputError

_GIB = 2**30
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def peak_memory() -> float:
    """Return the most memory that this process has held at once, in GiB."""
    bytes_per_unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * bytes_per_unit / _GIB


def peak_gpu_memory() -> float:
    """Return the most memory that this process has held on its GPU, in GiB; 0 without a GPU."""
    return torch.cuda.max_memory_allocated() / _GIB if torch.cuda.is_available() else 0.0


@contextmanager
def explain_out_of_memory(advice: str) -> Iterator[None]:
    """Turn what a device says when its memory is full into `advice`.

    Raises:
        InputError: the block ran out of memory.
    """
    try:
        yield
    except RuntimeError as error:
        # A processor's allocator has no error class of its own.
        if any(words in str(error) for words in _OUT_OF_MEMORY):
            raise InputError(advice) from error
        raise
