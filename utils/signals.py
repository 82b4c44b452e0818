"""Being told to stop: SIGTERM from a scheduler, SIGINT from a keyboard."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

TRY_AGAIN = 75
"""Exit code of a run that was stopped and can go on: EX_TEMPFAIL of sysexits.h."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(Exception):
    """The process was told to stop, and has; the message says how to go on."""


@contextmanager
def noting_signals() -> Iterator[Callable[[], bool]]:
    """Only note the first SIGTERM or SIGINT, so that the step under way can be finished.

    A second one does what it does without this: it ends the process at once.

    Yields:
        A function that says whether a signal has come.
    """
    noted = []
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)
        restore()

    for number in _SIGNALS:
        signal.signal(number, note)
    try:
        yield lambda: bool(noted)
    finally:
        restore()
