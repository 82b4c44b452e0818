"""Parameters that take no part in a network's output, such as the rest of a classifier."""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from models.interface import read_output
from models.sizes import nearest_multiples, size_step
from utils.errors import InputError

_SIDE = 512
"""Side of the image of the trial, in pixels; some networks take none smaller."""


def unused_to_buffers(network: nn.Module) -> None:
    """Turn the parameters that never get a gradient into buffers.

    Plain DDP waits for the gradient of every parameter, and thawing an encoder makes all its
    parameters ask for one. A buffer is neither waited for nor thawed, and stays in the state dict.

    Raises:
        InputError: the network cannot take an image.
    """
    for name in _unused(network):
        path, _, last = name.rpartition(".")
        module = network.get_submodule(path)
        value = getattr(module, last).detach()
        delattr(module, last)
        module.register_buffer(last, value)


@torch.enable_grad()
def _unused(network: nn.Module) -> list[str]:
    """Name the parameters that the output does not depend on.

    The trial runs on shapes alone (torch's meta device): it costs a fraction of a second, draws no
    random number and moves no batch-norm statistic.
    """
    parameters = {name: _shape(p).requires_grad_() for name, p in network.named_parameters()}
    buffers = {name: _shape(buffer) for name, buffer in network.named_buffers()}
    side = nearest_multiples(_SIDE, size_step(network))[-1]
    image = torch.empty(2, 3, side, side, device="meta")
    try:
        output = functional_call(network, parameters | buffers, (image,))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise InputError(
            f"{type(network).__name__} cannot take an image of {side}x{side} ({error}); choose an "
            "encoder for images of any size"
        ) from error
    total = torch.stack([part.sum() for part in read_output(output) if part is not None]).sum()
    gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    return [name for name, grad in zip(parameters, gradients, strict=True) if grad is None]


def _shape(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="meta")
