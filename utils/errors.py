"""The error that a user can act on, and how a command ends with it."""

import errno
import functools
import signal
import sys
from collections.abc import Callable, Sequence

from utils.console import say
from utils.signals import TRY_AGAIN, Stopped

_NAMED = 10
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
INTERRUPTED = 128 + signal.SIGINT
"""Exit code that shells know for a command that Ctrl-C ended."""


class InputError(Exception):
    """Something the user gave cannot be used.

    The message says what was looked for, where, and what to do next.
    """


class ToldByFirst(InputError):
    """An `InputError` of all processes, which the first one tells."""


def refuse(problems: Sequence[str], advice: str) -> None:
    """Raise one error for all problems, if there are any: ten are named, the others counted.

    Args:
        problems: what is wrong, one text each.
        advice: what to do about them.

    Raises:
        InputError: there is a problem.
    """
    if problems:
        others = [f"and {len(problems) - _NAMED:,} more"] if len(problems) > _NAMED else []
        raise InputError("\n".join([*problems[:_NAMED], *others, advice]))


def command(main: Callable[..., int | None]) -> Callable[..., int]:
    """Make `main` a command: an `InputError` becomes one message and exit code 2.

    Returns:
        A function that returns the exit code for `sys.exit`.
    """

    @functools.wraps(main)
    def run(*args, **kwargs) -> int:
        try:
            return main(*args, **kwargs) or 0
        except ToldByFirst:
            return 2
        except Stopped as stopped:
            say(str(stopped))
            return TRY_AGAIN
        except KeyboardInterrupt:
            say("interrupted")
            return INTERRUPTED
        except OSError as error:
            if error.errno not in _DISK_FULL:
                raise
            print(
                f"error: {error.strerror}: {error.filename or 'a file'} cannot be written. What was"
                " there is whole: make room, then call again (a training with --resume true)",
                file=sys.stderr,
            )
            return 2
        except InputError as error:
            # torch puts the traceback of a loader's worker in front of the message.
            message = str(error).rsplit(f"{InputError.__name__}: ", 1)[-1].strip()
            print(f"error: {message}", file=sys.stderr)
            return 2

    return run
