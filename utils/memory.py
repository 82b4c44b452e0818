"""Peak memory of a process, and readable errors where memory is exhausted."""

import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from utils.errors import InputError, one_line
from utils.parallel import describe_death
from utils.signals import find_death

GIB = 2**30
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "_ALLOC_FAILED")
"""What torch says, and the end of what cuBLAS and cuDNN say."""


def peak_memory() -> float:
    """Return the peak resident memory of this process, in GiB."""
    bytes_per_unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * bytes_per_unit / GIB


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error means that GPU or CPU memory is exhausted."""
    # The CPU allocator raises a plain RuntimeError.
    return any(words in str(error) for words in _OUT_OF_MEMORY)


@contextmanager
def readable_memory_errors() -> Iterator[None]:
    """Turn an out-of-memory error of a prediction, or a worker killed for memory, into advice.

    Raises:
        InputError: memory is exhausted, or a worker process died.
    """
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise InputError(
                f"out of memory; try a smaller --batch_size ({one_line(error)})"
            ) from error
        death = find_death(error)
        if death is not None:
            raise InputError(
                f"{describe_death(death)}. Nothing was written: run the command again with fewer "
                "--num_workers (0 loads in the main process) or a smaller --batch_size"
            ) from error
        raise
