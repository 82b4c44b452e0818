"""Stop requests: SIGTERM from a scheduler, SIGINT from the keyboard."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_RETRY = 75
"""Exit code of a run that was stopped and can be resumed: EX_TEMPFAIL of sysexits.h."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(Exception):
    """The process stopped because it was asked to; the message says how to resume."""


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
