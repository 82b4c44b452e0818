"""The error that a user can act on, and how a command ends with it."""

import functools
import sys
from collections.abc import Callable, Sequence

_NAMED = 10


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
        except InputError as error:
            # torch puts the traceback of a loader's worker in front of the message.
            message = str(error).rsplit(f"{InputError.__name__}: ", 1)[-1].strip()
            print(f"error: {message}", file=sys.stderr)
            return 2

    return run
