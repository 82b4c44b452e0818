"""How much memory a process has needed, and whether it was too little."""

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


def is_out_of_memory(error: RuntimeError) -> bool:
    """Say whether a device or a processor reports that its memory is full."""
    # A processor's allocator has no error class of its own.
    return any(words in str(error) for words in _OUT_OF_MEMORY)


@contextmanager
def explaining_full_memory() -> Iterator[None]:
    """Say what to do where the memory is too small to predict.

    Raises:
        InputError: it is.
    """
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise InputError(
                f"the memory is too small; give a smaller --batch_size ({error})"
            ) from error
        raise
