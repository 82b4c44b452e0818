"""A stage as data: one stretch of training at one image size."""

from dataclasses import dataclass

from utils.errors import InputError


@dataclass(frozen=True)
class Stage:
    """One stretch of training at one image size, with its own optimizer and schedule."""

    number: int
    """1 for the first stage."""
    image_size: int
    """Side of the square input in pixels."""
    batch_size: int
    """Images per step, over all processes."""
    epochs: int
    """Passes over the training images."""
    lr: float
    """Learning rate: of the first epoch, or the largest where a schedule begins lower."""
    loss: str = "bce"
    """Terms and weights, see utils/loss.py."""
    schedule: str = "cosine"
    """How the rate changes, see utils/schedule.py."""
    positive_share: tuple[float, float] | None = None
    """Share of positives in the first and the last epoch; None takes every image once."""
    positives_only: bool = False
    """Trains and validates on images with a mask alone: learns to draw, not to decide."""
    freeze_epochs: int = 0
    """First epochs in which the encoder is held frozen."""
    accumulation_epochs: int = 0
    """Last epochs in which gradients are accumulated."""
    accumulation_steps: int = 1
    """Batches per optimizer step in those epochs."""

    def group_size(self, epoch: int) -> int:
        """Return how many batches make one optimizer step in `epoch` (from 0)."""
        accumulates = epoch >= self.epochs - self.accumulation_epochs
        return self.accumulation_steps if accumulates else 1

    def share_of(self, epoch: int) -> float | None:
        """Return the share of positives in `epoch` (from 0); None takes every image once."""
        if self.positive_share is None:
            return None
        first, last = self.positive_share
        return first + (last - first) * epoch / max(1, self.epochs - 1)


def parse_share(text: float | str | None, flag: str) -> tuple[float, float] | None:
    """Read a share of positives: 0.5, or 0.8:0.4 for the first and the last epoch.

    Raises:
        InputError: it is neither, or a share is not above 0 and at most 1.
    """
    if text is None:
        return None
    try:
        shares = [float(word) for word in str(text).split(":")]
    except ValueError:
        shares = []
    if len(shares) not in (1, 2) or not all(0 < share <= 1 for share in shares):
        raise InputError(
            f"{flag} {text}: give a share above 0 and at most 1, such as 0.5, or that of the first "
            "and of the last epoch, such as 0.8:0.4 (or 1.0:0.5, as YAML takes 1:0.5 for the "
            "number 60.5)"
        )
    return shares[0], shares[-1]
