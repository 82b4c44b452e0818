"""Image sizes: what a network cannot halve cleanly is refused before it computes anything."""

from torch import nn

from utils.errors import InputError
from utils.sizes import nearest_multiples


def check_size(network: nn.Module, height: int, width: int) -> None:
    """Make sure that a network can halve an image as often as it does.

    Args:
        network: sides must be multiples of its `size_step`.
        height: in pixels.
        width: in pixels.

    Raises:
        InputError: it cannot; the nearest sizes that it can are named.
    """
    sides = [nearest_multiples(side, network.size_step) for side in (height, width)]
    if sides == [[height], [width]]:
        return
    smaller, larger = (f"{pick(sides[0])}x{pick(sides[1])}" for pick in (min, max))
    near = smaller if smaller == larger else f"{smaller} or {larger}"
    raise InputError(
        f"{type(network).__name__} cannot take an image of {height}x{width} (height x width): sides"
        f" must be multiples of {network.size_step}; use {near}"
    )


def check_every_input(network: nn.Module) -> None:
    """Let a network check each batch that it is called with.

    A hook, so that no layer is put around the network: its parameters keep their names.
    """
    network.register_forward_pre_hook(_check_batch)


def _check_batch(network: nn.Module, inputs: tuple) -> None:
    check_size(network, *inputs[0].shape[-2:])
