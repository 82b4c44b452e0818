"""Ranges of settings, as types that jsonargparse checks and names when it refuses a value.

For a type checker they are plain int and float, which is also what `Config` finally holds.
"""

import math
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    PositiveInt: TypeAlias = int
    NonNegativeInt: TypeAlias = int
    AtLeastTwo: TypeAlias = int
    FoldCount: TypeAlias = int
    PositiveFloat: TypeAlias = float
    NonNegativeFloat: TypeAlias = float
    BelowOne: TypeAlias = float
    UnitInterval: TypeAlias = float
else:
    from jsonargparse.typing import (
        ClosedUnitInterval,
        NonNegativeInt,
        PositiveInt,
        restricted_number_type,
    )

    UnitInterval = ClosedUnitInterval
    AtLeastTwo = restricted_number_type("AtLeastTwo", int, (">=", 2))
    FoldCount = restricted_number_type("FoldCount", int, [(">=", 2), ("<=", 1000)])
    BelowOne = restricted_number_type("BelowOne", float, [(">=", 0), ("<", 1)])
    # Without the upper limit, infinity would pass; NaN fails every comparison.
    PositiveFloat = restricted_number_type("FinitePositive", float, [(">", 0), ("<", math.inf)])
    NonNegativeFloat = restricted_number_type(
        "FiniteNonNegative", float, [(">=", 0), ("<", math.inf)]
    )

__all__ = [
    "AtLeastTwo",
    "BelowOne",
    "FoldCount",
    "NonNegativeFloat",
    "NonNegativeInt",
    "PositiveFloat",
    "PositiveInt",
    "UnitInterval",
    "plain",
]


def plain(value: Any) -> Any:
    """Return an int or float for a restricted number; YAML and safe checkpoints take no others."""
    for kind in (bool, int, float):
        if isinstance(value, kind):
            return kind(value)
    return value
