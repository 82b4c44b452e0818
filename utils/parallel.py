"""Work in threads, results in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from utils.cores import usable_cores

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 4


def in_order(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Do `work` on every item in a thread per core, and yield the results in the items' order.

    For work that lets go of the interpreter, such as OpenCV's decoding. Only a few results per
    thread wait to be taken, so that memory does not grow with the number of items. The first error
    ends the work that has not begun and is raised.
    """
    threads = usable_cores()
    pool = ThreadPoolExecutor(threads)
    waiting = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > _AHEAD * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
