"""Mean and standard deviation that images are normalised with, as settings of a run."""

import math
from typing import NamedTuple

from utils.errors import InputError

Channels = tuple[float, float, float]


class Normalisation(NamedTuple):
    """Mean and standard deviation of red, green and blue, for values from 0 to 1."""

    mean: Channels
    std: Channels

    def as_text(self) -> tuple[str, str]:
        """Return the settings `input_mean` and `input_std`."""
        mean, std = (",".join(f"{value:.9g}" for value in part) for part in self)
        return mean, std

    def __str__(self) -> str:
        mean, std = self.as_text()
        return f"--input_mean {mean} --input_std {std}"


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""That of most pretrained weights, and of runs whose settings name none."""


def parse_normalisation(mean: float | str | None, std: float | str | None) -> Normalisation:
    """Parse the settings `input_mean` and `input_std`; ImageNet's if there are none.

    Raises:
        InputError: one of them is missing or cannot be used.
    """
    if mean is None and std is None:
        return IMAGENET
    if mean is None or std is None:
        given, missing = ("std", "mean") if mean is None else ("mean", "std")
        raise InputError(f"--input_{given} needs --input_{missing}")
    parsed = Normalisation(_parse("--input_mean", mean), _parse("--input_std", std))
    if min(parsed.std) <= 0:
        raise InputError(f"--input_std {std}: must be above 0")
    return parsed


def _parse(flag: str, value: float | str) -> Channels:
    try:
        numbers = [float(word) for word in str(value).split(",")]
    except ValueError:
        numbers = []
    if len(numbers) == 1:
        numbers *= 3
    if len(numbers) != 3 or not all(map(math.isfinite, numbers)):
        raise InputError(
            f"{flag} {value}: give one number, or three separated by commas for red, green and "
            "blue, such as 0.5 or 0.485,0.456,0.406"
        )
    return numbers[0], numbers[1], numbers[2]
