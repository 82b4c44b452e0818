"""Losses on logits, computed in float32."""

from torch import Tensor
from torch.nn import functional as F


def bce(logits: Tensor, mask: Tensor) -> Tensor:
    """Binary cross-entropy, mean over all pixels of the batch.

    Args:
        logits: [B,1,H,W], any float type.
        mask: [B,1,H,W] uint8 of 0 and 1.

    Returns:
        A float32 scalar.
    """
    # A half-precision mean over a mask's pixels would overflow.
    return F.binary_cross_entropy_with_logits(logits.float(), mask.float())
