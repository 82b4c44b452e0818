"""What a network returns: the logits of a mask, and from some networks one for the whole image."""

from typing import NamedTuple

from torch import Tensor


class Output(NamedTuple):
    """What a network says about a batch.

    Attributes:
        logits: [B,1,H,W], of a mask at each pixel.
        presence: [B,1], of a mask anywhere in the image; None without a presence head.
    """

    logits: Tensor
    presence: Tensor | None


def read_output(output: Tensor | tuple[Tensor, Tensor]) -> Output:
    """Name the parts of what a network returned, whether or not it has a presence head."""
    return Output(output, None) if isinstance(output, Tensor) else Output(*output)
