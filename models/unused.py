"""Parameters that do not affect a network's output, such as an unused classifier."""

import torch
from torch import nn

from models.interface import read_output
from models.sizes import nearest_multiples, size_step
from models.trial import trial_output

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
    """Return the names of the parameters that the output does not depend on."""
    side = nearest_multiples(_SIDE, size_step(network))[-1]
    parameters, output = trial_output(network, 2, side)
    total = torch.stack([part.sum() for part in read_output(output) if part is not None]).sum()
    gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    return [name for name, grad in zip(parameters, gradients, strict=True) if grad is None]
