"""Signals: requests to stop, SIGTERM and SIGINT, and worker processes that a signal ended."""

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NamedTuple

EXIT_RETRY = 75
"""Exit code of a run that was stopped and can be resumed: EX_TEMPFAIL of sysexits.h."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_DEATH = re.compile(
    r"DataLoader worker \(pid.*?\) (?:is killed by signal: (?P<signal>[\w ]+)|exited unexpectedly)"
    r"|Pin memory thread exited unexpectedly"
)
"""What torch says of a worker that is gone, as RuntimeError, anywhere in the main thread."""


class Stopped(Exception):
    """The process stopped because it was asked to; the message says how to resume."""


class BatchLost(RuntimeError):
    """A worker process could not pass on its batch, and it is not known why."""


class Death(NamedTuple):
    """How a worker process ended.

    Attributes:
        cause: for the user, to follow "a worker process".
        bus_error: whether it was SIGBUS: memory that is part of a file could not be accessed.
    """

    cause: str
    bus_error: bool = False


_UNKNOWN = Death("ended unexpectedly, most often because the kernel killed it for want of memory")
_LOST = Death(
    "lost a batch, most often because the kernel killed it for want of memory, or because it may "
    "open too few files (ulimit -n)"
)


def find_death(error: BaseException) -> Death | None:
    """Return the death of a worker process that led to an error, if one did.

    It may be anywhere in the error's history: torch reports it from a signal handler, which
    interrupts whatever the main thread is doing.
    """
    deaths = [death for death in map(_as_death, _history(error)) if death]
    exact = [death for death in deaths if death not in (_UNKNOWN, _LOST)]
    return next(iter(exact + deaths), None)


@contextmanager
def deferred_signals() -> Iterator[Callable[[], bool]]:
    """Record the first SIGTERM or SIGINT instead of acting on it, so the current step can finish.

    A second signal has its usual effect: it ends the process at once.

    Yields:
        A function that returns whether a signal has arrived.
    """
    received: list[int] = []
    previous = {number: signal.getsignal(number) for number in _SIGNALS}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def record(number: int, frame: FrameType | None) -> None:
        received.append(number)
        restore()

    for number in _SIGNALS:
        signal.signal(number, record)
    try:
        yield lambda: bool(received)
    finally:
        restore()


def _history(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _as_death(error: BaseException) -> Death | None:
    if isinstance(error, BatchLost):
        return _LOST
    match = _DEATH.search(str(error)) if isinstance(error, RuntimeError) else None
    if match is None:
        return None
    name = match["signal"]
    if name is None:
        return _UNKNOWN
    if name == signal.strsignal(signal.SIGKILL):
        return Death("was killed, as the kernel does when memory is short")
    return Death(f"was ended by a signal: {name}", name == signal.strsignal(signal.SIGBUS))
