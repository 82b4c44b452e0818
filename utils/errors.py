"""The error that a user can act on, and how a command exits with it."""

import errno
import functools
import signal
import sys
from collections.abc import Callable, Sequence

from utils.console import print0
from utils.signals import EXIT_RETRY, Stopped

MAX_LISTED = 20
"""Problems that are listed one by one; further ones are counted."""
INTERRUPTED = 128 + signal.SIGINT
"""Exit code that shells use for a command ended by Ctrl-C."""
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class InputError(Exception):
    """Something the user gave cannot be used.

    The message says what was looked for, where, and what to do next.
    """


class ReportedByRankZero(InputError):
    """An `InputError` that every process raises and rank 0 reports."""


def list_problems(problems: Sequence[str]) -> list[str]:
    """Return the first `MAX_LISTED` problems, and a line that counts the others if any."""
    others = len(problems) - MAX_LISTED
    return [*problems[:MAX_LISTED], *([f"and {others:,} more"] if others > 0 else [])]


def raise_problems(problems: Sequence[str], advice: str) -> None:
    """Raise one error for all problems; do nothing if there are none.

    Args:
        problems: what is wrong, one text each.
        advice: what to do about them.

    Raises:
        InputError: there is a problem.
    """
    if problems:
        raise InputError("\n".join([*list_problems(problems), advice]))


def command(main: Callable[..., int | None]) -> Callable[..., int]:
    """Decorate a command's `main`: an `InputError` becomes one message and exit code 2.

    Returns:
        A function that returns the exit code for `sys.exit`.
    """

    @functools.wraps(main)
    def run(*args, **kwargs) -> int:
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
                f"error: {error.strerror}: cannot write {error.filename or 'a file'}. Files written"
                " before are complete: free some space, then run the command again (a training "
                "with --resume true)",
                file=sys.stderr,
            )
            return 2
        except InputError as error:
            # In a DataLoader worker, torch prepends the worker's traceback to the message.
            message = str(error).rsplit(f"{InputError.__name__}: ", 1)[-1].strip()
            print(f"error: {message}", file=sys.stderr)
            return 2

    return run
