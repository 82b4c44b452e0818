"""Errors that the user can act on, and how a command exits with them."""

import errno
import functools
import os
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from utils.console import escape_unprintable, is_main_process, print0
from utils.signals import EXIT_RETRY, Stopped, find_death

MAX_LISTED = 20
"""Maximum number of problems to list; the rest are only counted."""
INTERRUPTED = 128 + signal.SIGINT
"""Exit code that shells use for a command stopped by Ctrl-C."""
OUTPUT_CLOSED = 128 + signal.SIGPIPE
"""Exit code that shells use for a command whose output is not read to its end, as by head."""

_AGAIN = "run the command again (to continue a training, with --resume true)"
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ADVICE = {
    **dict.fromkeys(
        _DISK_FULL,
        f"it was not written, earlier files are complete: free some space, then {_AGAIN}",
    ),
    **dict.fromkeys(
        (errno.EROFS, errno.EACCES, errno.EPERM),
        f"make it accessible or choose another folder, then {_AGAIN}",
    ),
    **dict.fromkeys(
        (errno.ENOENT, errno.ENOTDIR, errno.ESTALE),
        f"it is missing, or was removed or renamed in the meantime: restore it, then {_AGAIN}",
    ),
}


class InputError(Exception):
    """A file or value from the user cannot be used.

    The message says what was expected, where, and what to do next.
    """


class ReportedByRankZero(InputError):
    """An `InputError` that every process raises and rank 0 reports."""


def one_line(error: Exception | str, length: int = 200) -> str:
    """Return the message of a library as one line, cut between words if it is longer."""
    return textwrap.shorten(str(error), length, placeholder=" ...")


def cause_of(error: Exception) -> str:
    """Return what went wrong, of an `OSError` without its number and the name of the file."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


def check_text(flag: str, value: str) -> None:
    """Refuse a name with bytes that are no UTF-8, which YAML, TensorBoard and others cannot store.

    Raises:
        InputError: it has such bytes, or the zero that no file name can have.
    """
    if "\0" in value or value != value.encode(errors="replace").decode():
        raise InputError(
            f"{flag} {value!r}: has bytes that are no UTF-8 text; rename the file or folder"
        )


def list_problems(problems: Sequence[str]) -> list[str]:
    """Return the first `MAX_LISTED` problems, and a line with the number of the others, if any."""
    others = len(problems) - MAX_LISTED
    return [*problems[:MAX_LISTED], *([f"and {others:,} more"] if others > 0 else [])]


def raise_problems(problems: Sequence[str], advice: str) -> None:
    """Raise one error for all problems, or return if there are none.

    Args:
        problems: one text per problem.
        advice: what to do about them.

    Raises:
        InputError: there are problems.
    """
    if problems:
        raise InputError("\n".join([*list_problems(problems), advice]))


@contextmanager
def readable_os_errors() -> Iterator[None]:
    """Turn an error of the file system into one line for the user.

    Raises:
        InputError: a file or folder is missing, may not be used, or does not fit on the disk.
        OSError: any error that names no file, apart from a full disk.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno not in _DISK_FULL:
            raise
        advice = _ADVICE.get(error.errno or 0, f"fix the cause, then {_AGAIN}")
        name = "a file" if error.filename is None else os.fsdecode(error.filename)
        raise InputError(f"{name}: {error.strerror}; {advice}") from error


def code_for_all(code: int) -> int:
    """Return the exit code of this process where all processes of a command end for one reason.

    Rank 0 ends with the code and the others with 0. Launchers take any other code for a crash, and
    kill the processes that still run: rank 0, before it has written its results. For the user,
    rank 0 is the command.
    """
    return code if is_main_process() else 0


def command(main: Callable[..., int | None]) -> Callable[..., int]:
    """Decorate a command's `main`: an `InputError` becomes one message and exit code 2.

    So do an error of the file system and a package that is not installed, as where there are only
    the packages of requirements-predict.txt. Text that stdout cannot encode is printed as escapes.

    Returns:
        A function that returns the exit code for `sys.exit`.
    """

    @functools.wraps(main)
    def run(*args: Any, **kwargs: Any) -> int:
        escape_unprintable()
        try:
            with readable_os_errors():
                try:
                    return main(*args, **kwargs) or 0
                finally:
                    sys.stdout.flush()
        except ReportedByRankZero:
            return code_for_all(2)
        except Stopped as stopped:
            print0(str(stopped))
            return code_for_all(EXIT_RETRY)
        except KeyboardInterrupt:
            print0("interrupted")
            return INTERRUPTED
        except BrokenPipeError:
            if not _is_output_closed():
                raise
            return OUTPUT_CLOSED
        except ModuleNotFoundError as error:
            if not _is_third_party(error.name):
                raise
            print(
                f"error: not installed: {error.name}, which this needs; run pip install -r "
                "requirements.txt",
                file=sys.stderr,
            )
            return 2
        except RuntimeError as error:
            # Commands explain this better; but another worker may die while they do.
            death = find_death(error)
            if death is None:
                raise
            print(
                f"error: a worker process {death.cause}. Use fewer --num_workers and {_AGAIN}",
                file=sys.stderr,
            )
            return 2
        except InputError as error:
            # In a DataLoader worker, torch prepends the worker's traceback to the message.
            message = str(error).rsplit(f"{type(error).__name__}: ", 1)[-1].strip()
            print(f"error: {message}", file=sys.stderr)
            return 2

    return run


def _is_third_party(module: str | None) -> bool:
    """Return whether a module is of an installable package, and not of this repository."""
    here = Path(__file__).parents[1]
    return module is not None and not (here / module.split(".")[0]).exists()


def _is_output_closed() -> bool:
    """Return whether nobody reads stdout any more, and if so discard what is left to print."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False
