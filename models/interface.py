"""The interface of every network: input, output, encoder."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from utils.config.normalisation import IMAGENET, Normalisation

NetworkOutput = Tensor | tuple[Tensor, Tensor]
"""Logits [B,1,H,W]; with a presence head, also its logits [B,1]."""


def normalise(image: Tensor, normalisation: Normalisation = IMAGENET) -> Tensor:
    """[B,1,H,W] uint8 grey -> [B,3,H,W] float32, normalised per channel."""
    mean, std = (torch.tensor(part).view(1, 3, 1, 1) for part in normalisation)
    # A blocking copy would wait for all work queued on the device.
    scale, shift = (
        part.to(image.device, non_blocking=True) for part in (1 / (255 * std), -mean / std)
    )
    return torch.addcmul(shift, image.float(), scale)


class Output(NamedTuple):
    """The output of a network for a batch.

    Attributes:
        logits: [B,1,H,W], logits of a mask at each pixel.
        presence: [B,1], logits of a mask anywhere in the image; None without a presence head.
    """

    logits: Tensor
    presence: Tensor | None


def read_output(output: NetworkOutput) -> Output:
    """Name the parts of a network's output, with or without a presence head."""
    return Output(output, None) if isinstance(output, Tensor) else Output(*output)


def encoder_of(network: nn.Module) -> nn.Module | None:
    """Return the part of a network that takes pretrained weights and can be frozen."""
    encoder = network.encoder
    if encoder is None or isinstance(encoder, nn.Module):
        return encoder
    raise TypeError(f"{type(network).__name__}.encoder is not a module")
