"""Trials of a network on torch's meta device, which computes only shapes.

A trial takes a fraction of a second, draws no random numbers and changes nothing in the network.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from models.interface import NetworkOutput
from utils.errors import InputError, one_line


def trial_output(
    network: nn.Module, images: int, side: int
) -> tuple[dict[str, Tensor], NetworkOutput]:
    """Return the shapes of a network's parameters, by name, and of its output.

    Args:
        network: the network.
        images: number of square images.
        side: their side in pixels.

    Raises:
        InputError: the network does not accept them.
    """
    parameters = {name: _shape(p).requires_grad_() for name, p in network.named_parameters()}
    buffers = {name: _shape(buffer) for name, buffer in network.named_buffers()}
    image = torch.empty(images, 3, side, side, device="meta")
    try:
        return parameters, functional_call(network, parameters | buffers, (image,))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise InputError(
            f"{type(network).__name__} cannot take an image of {side}x{side} ({one_line(error)}); "
            "choose an encoder that accepts any image size, or another size"
        ) from error


def check_single_images(network: nn.Module, batches: Iterable[tuple[str, int]]) -> None:
    """Check that a network can be trained on batches of a single image per process.

    Batch norm cannot: where features have shrunk to 1x1, as by global pooling, a single image
    leaves one value per channel, and its deviation is 0.

    Args:
        network: the network.
        batches: flag with its value, and side of the images in pixels, of each such batch.

    Raises:
        InputError: the network has batch norm on features of 1x1 for images of that size.
    """
    for flag, side in batches:
        if _normalises_single_values(network, side):
            raise InputError(
                f"{flag}: a process would train on one image of {side} pixels at a time, which "
                f"{type(network).__name__} cannot: it has batch norm on features of 1x1, which "
                "needs two images. Use at least 2 images per process, or another --model_type"
            )


@torch.no_grad()
def _normalises_single_values(network: nn.Module, side: int) -> bool:
    values_per_image: list[int] = []

    def record(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values_per_image.append(inputs[0][0, 0].numel())

    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    hooks = [norm.register_forward_pre_hook(record) for norm in norms]
    try:
        trial_output(network, 2, side)
    finally:
        for hook in hooks:
            hook.remove()
    return 1 in values_per_image


def _shape(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="meta")
