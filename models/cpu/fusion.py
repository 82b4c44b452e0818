"""Batch norm folded into the convolutions before it, for faster prediction on a CPU."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.interface import read_output
from models.sizes import nearest_multiples, size_step
from utils.errors import InputError

_SIDE = 64
"""Least side of the trial image in pixels."""
_TOLERANCE = 1e-3
"""Largest change of a logit, relative to the largest logit; rounding changes some 1e-6."""


@torch.no_grad()
def fold_batch_norms(network: nn.Module) -> nn.Module:
    """Return a network that predicts the same without most of its batch norms.

    A batch norm that directly follows a convolution is folded into its weights, in float32. If the
    trial image then gives another output, as where something else reads the convolution's output
    too, the network is returned as it is.

    Args:
        network: in evaluation mode, on the CPU; it is not changed.
    """
    generator = torch.Generator().manual_seed(0)
    side = nearest_multiples(_SIDE, size_step(network))[-1]
    image = torch.rand(1, 3, side, side, generator=generator)
    folded = copy.deepcopy(network)
    try:
        pairs, expected = _find_pairs(folded, image)
    except (AssertionError, InputError, RuntimeError, ValueError):
        # It accepts only larger images.
        return network
    for convolution, norm in pairs.items():
        _fold(folded, convolution, norm)
    found = read_output(folded(image)).logits
    change = (found - expected).abs().max()
    return folded if change <= _TOLERANCE * expected.abs().max() else network


def _find_pairs(network: nn.Module, image: Tensor) -> tuple[dict[str, str], Tensor]:
    """Return the batch norm that follows each convolution, by their names, and the logits."""
    outputs: list[tuple[Tensor, str]] = []
    pairs: list[tuple[str, str]] = []

    def watch_convolution(name: str) -> None:
        def keep(_: nn.Module, __: tuple, output: Tensor) -> None:
            outputs.append((output, name))

        hooks.append(network.get_submodule(name).register_forward_hook(keep))

    def watch_norm(name: str) -> None:
        def look(_: nn.Module, inputs: tuple) -> None:
            pairs.extend((c, name) for output, c in outputs if output is inputs[0])

        hooks.append(network.get_submodule(name).register_forward_pre_hook(look))

    hooks: list = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            watch_convolution(name)
        elif _is_plain_norm(module):
            watch_norm(name)
    try:
        logits = read_output(network(image)).logits
    finally:
        for hook in hooks:
            hook.remove()
    # A module that is called again, as in a recurrent network, may be followed by others then.
    calls = [name for _, name in outputs]
    norms = [norm for _, norm in pairs]
    once = {c: n for c, n in pairs if calls.count(c) == 1 and norms.count(n) == 1}
    return once, logits


def _is_plain_norm(module: nn.Module) -> bool:
    """Return whether the module is batch norm, or timm's with an activation in it."""
    kind = type(module)
    is_known = kind is nn.BatchNorm2d or kind.__name__ == "BatchNormAct2d"
    return is_known and getattr(module, "running_mean", None) is not None


def _fold(network: nn.Module, convolution: str, norm: str) -> None:
    before: Any = network.get_submodule(convolution)
    after: Any = network.get_submodule(norm)
    transposed = isinstance(before, nn.ConvTranspose2d)
    network.set_submodule(convolution, fuse_conv_bn_eval(before, after, transpose=transposed))
    is_bare = type(after) is nn.BatchNorm2d
    network.set_submodule(norm, nn.Identity() if is_bare else nn.Sequential(after.drop, after.act))
