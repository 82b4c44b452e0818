"""What passes between the files of a prediction and the networks, whatever runs these."""

from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from utils.errors import InputError

Item = TypeVar("Item")


class Batch(NamedTuple, Generic[Item]):
    """A batch to predict.

    Attributes:
        images: for each view, [B,1,S,S] uint8 grey, preprocessed: tensors for torch, else arrays.
        sizes: height and width of the B originals in pixels.
        items: B objects that identify the images to the caller.
    """

    images: list[Any]
    sizes: list[tuple[int, int]]
    items: list[Item]


class LevelMaps(NamedTuple):
    """The prediction for one image, at its original size, ready for the rule.

    Attributes:
        levels: [H,W] uint8, level floor(255 p) of the probability map.
        gate: [H,W] uint8, levels of the gate map; None if it is `levels`.
        maximum: largest probability.
        gate_maximum: largest probability of the gate map.
        presence: probability of the presence head; None without one.
    """

    levels: np.ndarray
    gate: np.ndarray | None
    maximum: float
    gate_maximum: float
    presence: float | None

    def check(self, name: object) -> None:
        """Refuse values that are not probabilities.

        Args:
            name: the image, for the error message.

        Raises:
            InputError: a value is not between 0 and 1.
        """
        for value in (self.maximum, self.gate_maximum, self.presence or 0.0):
            if not 0 <= value <= 1:
                raise InputError(
                    f"{name}: the predicted probability is {value}; try --precision 32-true"
                )
