"""Parameters that do not affect a network's output, such as an unused classifier."""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from models.interface import read_output
from models.sizes import nearest_multiples, size_step
from utils.errors import InputError

_SIDE = 512
"""Side of the trial image in pixels; some networks accept no smaller one."""


def unused_to_buffers(network: nn.Module) -> None:
    """Turn the parameters that never get a gradient into buffers.

    Plain DDP waits for the gradient of every parameter that requires one, and thawing an encoder
    sets that for all of its parameters. Buffers are exempt from both and stay in the state dict.

    Raises:
        InputError: the network does not accept the trial image.
    """
    for name in _unused(network):
        path, _, last = name.rpartition(".")
        module = network.get_submodule(path)
        value = getattr(module, last).detach()
        delattr(module, last)
        module.register_buffer(last, value)


@torch.enable_grad()
def _unused(network: nn.Module) -> list[str]:
    """Return the names of the parameters that the output does not depend on.

    The trial runs on torch's meta device, which computes only shapes: it takes a fraction of a
    second, draws no random numbers and updates no batch-norm statistics.
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
            "encoder that accepts any image size"
        ) from error
    total = torch.stack([part.sum() for part in read_output(output) if part is not None]).sum()
    gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    return [name for name, grad in zip(parameters, gradients, strict=True) if grad is None]


def _shape(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="meta")
