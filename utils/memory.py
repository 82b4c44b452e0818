"""How much memory a process has needed."""

import resource
import sys

import torch

_GIB = 2**30


def peak_memory() -> float:
    """Return the most memory that this process has held at once, in GiB."""
    bytes_per_unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * bytes_per_unit / _GIB


def peak_gpu_memory() -> float:
    """Return the most memory that this process has held on its GPU, in GiB; 0 without a GPU."""
    return torch.cuda.max_memory_allocated() / _GIB if torch.cuda.is_available() else 0.0
