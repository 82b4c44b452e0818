"""Number types with ranges, which jsonargparse checks and names in its error messages.

For a type checker they are plain int and float, and `Config` holds plain int and float too.
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
    from jsonargparse import typing

    PositiveInt, NonNegativeInt = typing.PositiveInt, typing.NonNegativeInt
    UnitInterval = typing.ClosedUnitInterval
    AtLeastTwo = typing.restricted_number_type("AtLeastTwo", int, (">=", 2))
    FoldCount = typing.restricted_number_type("FoldCount", int, [(">=", 2), ("<=", 1000)])
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
