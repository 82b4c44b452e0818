"""Files that several processes use: atomic writes, and the locks of folders.

A written file is complete or absent, never half written. The operating system releases a lock when
the process that holds it ends, however it ends; on a disk that machines share, they share the lock.
"""

import errno
import json
import math
import os
import re
import shutil
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from filelock import BaseFileLock, FileLock, Timeout

from utils.console import print0
from utils.errors import InputError
from utils.limits import SETTINGS_BYTES, read_bytes

_TEMPORARY = re.compile(r"\.(?P<stem>.+?)\.[0-9]+(?P<suffix>\.[^.]+)?")
_LOCK, _OWNER = "lock", "lock.json"
_PATIENCE = 0.5
"""Seconds to try; `OwnedLock.owner` takes the lock for a moment, and a new owner signs after it."""
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)


@contextmanager
def atomic_write(path: str | Path, flush: bool = True, replace: bool = True) -> Iterator[Path]:
    """Write to a temporary file next to `path`, then rename it to `path`.

    If the block raises, `path` is unchanged and the temporary file is removed. A link at `path` is
    replaced by the file, and what it leads to is unchanged; `write_output` follows links.

    Args:
        path: the file to create or replace.
        flush: sync to disk before renaming, so that a power cut leaves either the old or the new
            file; False is faster for many files that can be recreated.
        replace: overwrite an existing file.

    Yields:
        The path to write to. It has the suffix of `path`, from which many writers infer the format.

    Raises:
        FileExistsError: `path` exists and `replace` is False.
        OSError: `path` is a folder or a device, and nothing is written; or the file cannot be
            written. The error names `path`, not the temporary file.
    """
    path = Path(path)
    check_replaceable(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        if flush:
            _sync(temporary)
        if replace:
            os.replace(temporary, path)
        else:
            link_or_copy(temporary, path)
    except OSError as error:
        if error.filename is not None and Path(error.filename) == temporary:
            error.filename = str(path)
        raise
    finally:
        # In a read-only or removed folder, the error above is the one to report.
        with suppress(OSError):
            temporary.unlink()


def check_writable(folder: Path) -> None:
    """Check, before the work begins, that a folder can be written to, or created.

    Raises:
        InputError: it cannot.
    """
    nearest = next(
        path for path in (folder.absolute(), *folder.absolute().parents) if path.exists()
    )
    if not nearest.is_dir():
        raise InputError(
            f"{folder}: cannot be written to, because {nearest} is not a folder; "
            "choose another folder"
        )
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise InputError(
            f"{folder}: cannot be written to, because {nearest} is read-only. Make it writable, or "
            "copy what you need to another folder"
        )


@contextmanager
def write_output(path: str | Path) -> Iterator[Path]:
    """Write a file that a user named: atomically, through links, and into pipes and devices.

    A link stays, and the file that it leads to is created or replaced. A pipe or a character
    device, such as /dev/null, stays and receives the complete content.

    Args:
        path: what the user named.

    Yields:
        The path to write to, with the suffix of the file that is written.

    Raises:
        OSError: `path` leads to a folder, a disk or a socket; nothing is written.
    """
    path = Path(path)
    if not is_stream(path):
        with atomic_write(os.path.realpath(path)) as temporary:
            yield temporary
        return
    with TemporaryDirectory() as folder:
        temporary = Path(folder) / f"content{path.suffix}"
        yield temporary
        with open(temporary, "rb") as content, open(path, "wb") as stream:
            shutil.copyfileobj(content, stream)


def check_output(path: Path) -> None:
    """Check, before the work begins, that `write_output` can replace what a user named.

    Raises:
        OSError: it is a folder, a disk or a socket.
    """
    if not is_stream(path):
        check_replaceable(Path(os.path.realpath(path)))


def is_stream(path: Path) -> bool:
    """Return whether a path leads to a pipe or a character device, such as a terminal."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def check_replaceable(path: Path) -> None:
    """Check that nothing but a file or a link is at `path`, which a rename would replace.

    Raises:
        OSError: a folder, a device, a pipe or a socket is there.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode) and not stat.S_ISLNK(mode):
        raise OSError(errno.EINVAL, "not a file but a device, a pipe or a socket", str(path))


def remove_temporaries(folder: Path, is_own: Callable[[str], bool]) -> None:
    """Remove temporary files that killed processes left in a folder.

    Args:
        folder: the folder.
        is_own: returns whether files of a name are written by `atomic_write`; temporary files for
            other names are not touched.
    """
    for path in folder.iterdir():
        found = _TEMPORARY.fullmatch(path.name)
        if found and is_own(found["stem"] + (found["suffix"] or "")):
            path.unlink(missing_ok=True)


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


def write_json(
    path: str | Path,
    content: dict | list,
    write: Callable[[Path], AbstractContextManager[Path]] = atomic_write,
) -> None:
    """Write `content` as indented JSON, atomically; NaN, which JSON lacks, becomes null.

    Args:
        path: the file.
        content: what it will hold.
        write: `write_output` for a file that a user named.
    """
    with write(Path(path)) as temporary:
        text = json.dumps(_without_nan(content), indent=2, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


@contextmanager
def hold_lock(folder: Path, purpose: str, advice: str) -> Iterator[None]:
    """Hold the lock of a folder; if another process holds it, say so and wait.

    Args:
        folder: the folder, which must exist.
        purpose: what this process waits for, for the line that says so.
        advice: what to do if the folder cannot be written to.

    Raises:
        InputError: the folder cannot be written to.
    """
    lock = FileLock(folder / _LOCK)
    if not _acquire(lock, advice, timeout=0):
        print0(f"waiting for another process {purpose}")
        _acquire(lock, advice, timeout=-1)
    try:
        yield
    finally:
        lock.release()


class OwnedLock:
    """The lock of a folder that one process works in, which tells the others who that is.

    Args:
        folder: the folder, which must exist.
        advice: what to do if it cannot be written to.
    """

    def __init__(self, folder: Path, advice: str):
        self._folder = folder
        self._advice = advice
        self._lock = FileLock(folder / _LOCK)

    def acquire(self) -> str | None:
        """Take the lock.

        Returns:
            None if this process holds it now; otherwise which process does, and since when.

        Raises:
            InputError: the folder cannot be written to.
        """
        if not _acquire(self._lock, self._advice, _PATIENCE):
            return self._describe_owner()
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        owner = {"process": os.getpid(), "host": socket.gethostname(), "since": since}
        write_json(self._folder / _OWNER, owner)
        return None

    def owner(self) -> str | None:
        """Return which process holds the lock and since when; None if it is free."""
        if not _acquire(self._lock, self._advice, timeout=0):
            return self._describe_owner()
        self._lock.release()
        return None

    def release(self) -> None:
        """Release the lock, if this process holds it."""
        if self._lock.is_locked:
            # In a folder turned read-only, what ended the work is the error to report.
            with suppress(OSError):
                (self._folder / _OWNER).unlink()
            self._lock.release()

    def _describe_owner(self) -> str:
        try:
            owner = json.loads(read_bytes(self._folder / _OWNER, SETTINGS_BYTES))
            return f"process {owner['process']} on {owner['host']}, since {owner['since']}"
        except (OSError, ValueError, KeyError, TypeError, InputError):
            return "another process"


def _acquire(lock: BaseFileLock, advice: str, timeout: float) -> bool:
    """Take a lock within `timeout` seconds (-1: wait); return whether this process has it."""
    try:
        lock.acquire(timeout=timeout)
    except Timeout:
        return False
    except OSError as error:
        folder = Path(lock.lock_file).parent
        if error.errno not in _UNSUPPORTED:
            raise InputError(
                f"{folder} cannot be written to ({error.strerror}). {advice}"
            ) from error
        print0(
            f"warning: the file system of {folder} has no locks ({error.strerror}): make sure that "
            "no other process works in this folder"
        )
    return True


def _without_nan(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _sync(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
