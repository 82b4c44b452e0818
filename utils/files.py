"""Atomic writes: a file is complete or absent, never half written."""

import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: str | Path, flush: bool = True, replace: bool = True) -> Iterator[Path]:
    """Write to a temporary file next to `path`, then rename it to `path`.

    If the block raises, `path` is unchanged and the temporary file is removed.

    Args:
        path: the file to create or replace.
        flush: sync to disk before renaming, so that a power cut leaves either the old or the new
            file; False is faster for many files that can be recreated.
        replace: overwrite an existing file.

    Yields:
        The path to write to. It has the suffix of `path`, from which many writers infer the format.

    Raises:
        FileExistsError: `path` exists and `replace` is False.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        if flush:
            _sync(temporary)
        if replace:
            os.replace(temporary, path)
        else:
            link_or_copy(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link `target` to `source`; copy it where the file system has no hard links.

    Raises:
        FileExistsError: `target` exists.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:
        with open(source, "rb") as old, open(target, "xb") as new:
            shutil.copyfileobj(old, new)


def write_json(path: str | Path, content: dict | list) -> None:
    """Write `content` as indented JSON, atomically; NaN, which JSON lacks, becomes null."""
    with atomic_write(path) as temporary:
        text = json.dumps(_without_nan(content), indent=2, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def _without_nan(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _sync(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
