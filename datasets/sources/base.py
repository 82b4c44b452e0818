"""Reads every file before it says which of them cannot be used."""

from collections.abc import Callable, Iterable, Iterator

from datasets.siim import MEND
from utils.errors import InputError, refuse
from utils.parallel import Item, Result, in_order


def read_all(work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Do `work` on every item as `in_order` does, but let no `InputError` end it early.

    Behind the first one nothing more is yielded, as it would be of no use; the rest is read for
    what is wrong with it.

    Raises:
        InputError: some items were refused; all are in its message, as far as it names them.
    """
    problems = []
    for result in in_order(lambda item: _attempt(work, item), items):
        if isinstance(result, InputError):
            problems.append(str(result))
        elif not problems:
            yield result
    refuse(problems, MEND)


def _attempt(work: Callable[[Item], Result], item: Item) -> Result | InputError:
    try:
        return work(item)
    except InputError as error:
        return error
