"""Files that are either whole or not there."""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic(path: str | Path, flush: bool = True) -> Iterator[Path]:
    """Give a temporary name beside `path`; rename it to `path` once it is written.

    If the block raises, `path` stays as it was and the temporary file is removed.

    Args:
        path: the file to make or replace.
        flush: force the bytes to disk before the renaming, so that a power cut leaves the old
            or the new file; False for many files that can be made again.

    Yields:
        The path to write to. Its suffix is that of `path`, because writers choose by suffix.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        if flush:
            _to_disk(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
