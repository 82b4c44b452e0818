"""Files that are either whole or not there."""

import json
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic(path: str | Path, flush: bool = True, replace: bool = True) -> Iterator[Path]:
    """Give a temporary name beside `path`; rename it to `path` once it is written.

    If the block raises, `path` stays as it was and the temporary file is removed.

    Args:
        path: the file to make or replace.
        flush: force the bytes to disk before the renaming, so that a power cut leaves the old
            or the new file; False for many files that can be made again.
        replace: take the place of a file that is there.

    Yields:
        The path to write to. Its suffix is that of `path`, because writers choose by suffix.

    Raises:
        FileExistsError: `path` is there, and is not to be replaced.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        if flush:
            _to_disk(temporary)
        if replace:
            os.replace(temporary, path)
        else:
            give_second_name(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def give_second_name(source: Path, target: Path) -> None:
    """Give one file two names; where the file system cannot, copy it.

    Raises:
        FileExistsError: `target` is there.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:
        with open(source, "rb") as old, open(target, "xb") as new:
            shutil.copyfileobj(old, new)


def write_json(path: str | Path, content: dict) -> None:
    """Write `content` as indented JSON, atomically; NaN, which JSON does not have, becomes null."""
    with atomic(path) as temporary:
        text = json.dumps(_without_nan(content), indent=2, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def _without_nan(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _to_disk(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
