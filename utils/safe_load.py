"""Loading torch files, only with torch's safe loader."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.errors import InputError, one_line
from utils.limits import check_is_file

_SCALAR = np.float64(0).__reduce__()[0]
_NUMPY_FLOATS: list[Any] = [
    _SCALAR,
    (_SCALAR, "numpy.core.multiarray.scalar"),
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
]
"""Needed to load a numpy float, whose module name differs before and after numpy 2: checkpoints of
the original repository store their best Dice as one. None of these can run code from the file."""


class DamagedError(InputError):
    """A checkpoint that cannot be read."""


def load_file(path: str | Path) -> dict:
    """Load a dict of tensors, plain types and numpy floats onto the CPU with torch's safe loader.

    A .safetensors file, which can hold nothing but tensors, is read by its own library.

    Raises:
        InputError: the file is missing, is no regular file or does not hold a dict.
        DamagedError: the file cannot be read, or a checksum does not match.
    """
    check_is_file(path, "checkpoint")
    try:
        if Path(path).suffix == ".safetensors":
            from safetensors.torch import load_file as load_tensors

            return load_tensors(path)
        _verify_checksums(path)
        with torch.serialization.safe_globals(_NUMPY_FLOATS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise anything
        raise DamagedError(f"{path} cannot be read as a checkpoint: {reason_of(error)}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not a dict of weights")
    return content


def reason_of(error: Exception) -> str:
    """Return in one line why torch could not read a file."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # Not torch's own advice, to load the file unsafely.
    if not isinstance(error, OSError | RuntimeError) or not lines or "weights_only" in str(error):
        return "it is damaged, or holds more than tensors and plain types"
    # Of weights that do not fit, the second line says which.
    return one_line(" ".join(lines[:2]) if lines[0].endswith(":") else lines[0])


def _verify_checksums(path: str | Path) -> None:
    """Verify the checksum of every part of a checkpoint (a zip file); torch does not."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as parts:
            damaged = parts.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(damaged)
