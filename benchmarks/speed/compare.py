"""Timing two implementations in alternation."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Ratio:
    """The speed of this code and of a baseline; a ratio above 1 means that this code is faster.

    Attributes:
        name: name of the comparison.
        ours: rate of this code, in `unit`.
        baseline: rate of the baseline, in `unit`.
        unit: unit of the rates, such as images/s.
    """

    name: str
    ours: float
    baseline: float
    unit: str

    @property
    def ratio(self) -> float:
        """Ours divided by the baseline."""
        return self.ours / self.baseline

    def as_dict(self) -> dict:
        """Return the entry for the JSON file."""
        return {
            "ours": self.ours,
            "baseline": self.baseline,
            "unit": self.unit,
            "ratio": self.ratio,
        }


def rate(work: Callable[[], int]) -> float:
    """Call `work` once; return the number of units it reports, per second."""
    start = time.perf_counter()
    count = work()
    return count / (time.perf_counter() - start)


def in_turns(
    name: str, ours: Callable[[], int], baseline: Callable[[], int], unit: str, rounds: int = 3
) -> Ratio:
    """Time both alternately, so that other load on the machine affects both; return the medians.

    Args:
        name: name of the comparison.
        ours: does the work once and returns the number of units.
        baseline: the same for the baseline.
        unit: unit of the rates.
        rounds: number of calls of each.
    """
    pairs = [(rate(ours), rate(baseline)) for _ in range(rounds)]
    mine, theirs = (median(rates) for rates in zip(*pairs, strict=True))
    return Ratio(name, mine, theirs, unit)
