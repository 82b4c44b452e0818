"""Number types with ranges, which jsonargparse checks and names in its error messages.

For a type checker they are plain int and float, and `Config` holds plain int and float too.
"""

import math
from typing import TYPE_CHECKING, Any, TypeAlias

from utils.limits import PIXELS, WORKERS

if TYPE_CHECKING:
    Count: TypeAlias = int
    CountOrZero: TypeAlias = int
    RestartCount: TypeAlias = int
    FoldCount: TypeAlias = int
    WorkerCount: TypeAlias = int
    ImageSide: TypeAlias = int
    BatchSize: TypeAlias = int
    PixelCount: TypeAlias = int
    Seed: TypeAlias = int
    PositiveFloat: TypeAlias = float
    NonNegativeFloat: TypeAlias = float
    BelowOne: TypeAlias = float
    UnitInterval: TypeAlias = float
else:
    from jsonargparse import typing

    def _whole(name: str, low: int, high: int) -> type:
        return typing.restricted_number_type(name, int, [(">=", low), ("<=", high)])

    # Far above what a training needs, and low enough that none of them, multiplied by another one
    # or by the number of images, exhausts time or memory before an error can be reported.
    Count = _whole("Count", 1, 10_000)
    CountOrZero = _whole("CountOrZero", 0, 10_000)
    RestartCount = _whole("RestartCount", 2, 10_000)
    FoldCount = _whole("FoldCount", 2, 1000)
    WorkerCount = _whole("WorkerCount", 0, WORKERS)
    ImageSide = _whole("ImageSide", 1, math.isqrt(PIXELS))
    BatchSize = _whole("BatchSize", 1, 2**16)
    PixelCount = _whole("PixelCount", 0, PIXELS)
    Seed = _whole("Seed", 0, 2**63 - 1)

    UnitInterval = typing.ClosedUnitInterval
    BelowOne = typing.restricted_number_type("BelowOne", float, [(">=", 0), ("<", 1)])
    # Without the upper limit, infinity would pass; NaN fails every comparison.
    PositiveFloat = typing.restricted_number_type(
        "FinitePositive", float, [(">", 0), ("<", math.inf)]
    )
    NonNegativeFloat = typing.restricted_number_type(
        "FiniteNonNegative", float, [(">=", 0), ("<", math.inf)]
    )


def plain(value: Any) -> Any:
    """Return a plain int or float, since YAML and safe checkpoints store no restricted numbers."""
    for kind in (bool, int, float):
        if isinstance(value, kind):
            return kind(value)
    return value
