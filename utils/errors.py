"""Errors that the user can act on, and how a command exits with them."""

import errno
import functools
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from utils.console import print0
from utils.signals import EXIT_RETRY, Stopped, find_death

MAX_LISTED = 20
"""Maximum number of problems to list; the rest are only counted."""
INTERRUPTED = 128 + signal.SIGINT
"""Exit code that shells use for a command stopped by Ctrl-C."""
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class InputError(Exception):
    """A file or value from the user cannot be used.

    The message says what was expected, where, and what to do next.
    """


class ReportedByRankZero(InputError):
    """An `InputError` that every process raises and rank 0 reports."""


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


def command(main: Callable[..., int | None]) -> Callable[..., int]:
    """Decorate a command's `main`: an `InputError` becomes one message and exit code 2.

    Returns:
        A function that returns the exit code for `sys.exit`.
    """

    @functools.wraps(main)
    def run(*args: Any, **kwargs: Any) -> int:
        try:
            return main(*args, **kwargs) or 0
        except ReportedByRankZero:
            return 2
        except Stopped as stopped:
            print0(str(stopped))
            return EXIT_RETRY
        except KeyboardInterrupt:
            print0("interrupted")
            return INTERRUPTED
        except OSError as error:
            if error.errno not in _DISK_FULL:
                raise
            print(
                f"error: {error.strerror}: cannot write {error.filename or 'a file'}. Earlier "
                "files are complete: free some space, then run the command again (to continue a "
                "training, with --resume true)",
                file=sys.stderr,
            )
            return 2
        except RuntimeError as error:
            # Commands explain this better; but another worker may die while they do.
            death = find_death(error)
            if death is None:
                raise
            print(
                f"error: a worker process {death.cause}. Run the command again with fewer "
                "--num_workers (to continue a training, with --resume true)",
                file=sys.stderr,
            )
            return 2
        except InputError as error:
            # In a DataLoader worker, torch prepends the worker's traceback to the message.
            message = str(error).rsplit(f"{type(error).__name__}: ", 1)[-1].strip()
            print(f"error: {message}", file=sys.stderr)
            return 2

    return run
