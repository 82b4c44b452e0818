"""Two ways of doing one thing, timed in turns."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Ratio:
    """How fast two ways were in one run; a ratio above 1 speaks for ours.

    Attributes:
        name: of the comparison.
        ours: rate of this code, in `unit`.
        baseline: rate of the plain way, in `unit`.
        unit: what is counted per second.
    """

    name: str
    ours: float
    baseline: float
    unit: str

    @property
    def ratio(self) -> float:
        """Ours over the baseline."""
        return self.ours / self.baseline

    def as_dict(self) -> dict:
        """Give what goes into a JSON file under the name."""
        return {
            "ours": self.ours,
            "baseline": self.baseline,
            "unit": self.unit,
            "ratio": self.ratio,
        }


def rate(work: Callable[[], int]) -> float:
    """Do the work once and give what it counts, per second."""
    start = time.perf_counter()
    count = work()
    return count / (time.perf_counter() - start)


def in_turns(
    name: str, ours: Callable[[], int], baseline: Callable[[], int], unit: str, rounds: int = 3
) -> Ratio:
    """Time both in turns, so that what else the machine does meets both, and take the medians.

    Args:
        name: of the comparison.
        ours: does its work once and returns how many units that was.
        baseline: likewise.
        unit: what they count, per second.
        rounds: turns of each.
    """
    pairs = [(rate(ours), rate(baseline)) for _ in range(rounds)]
    mine, theirs = (median(rates) for rates in zip(*pairs, strict=True))
    return Ratio(name, mine, theirs, unit)
