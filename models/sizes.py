"""Image sizes: one that a network does not accept is refused before any computation."""

from collections.abc import Iterable

import torch
from torch import nn

from models.trial import trial_output
from utils.errors import InputError

_STEPS_NEARBY = 16
"""How many multiples of `size_step` on either side are tried in search of a valid size."""


def size_step(network: nn.Module) -> int:
    """Return the number of pixels of which image sides must be multiples."""
    step = network.size_step
    assert isinstance(step, int)
    return step


def check_image_size(network: nn.Module, height: int, width: int) -> None:
    """Check that the sides of an image are multiples of the network's `size_step`.

    Raises:
        InputError: they are not; the message names the nearest valid sizes.
    """
    step = size_step(network)
    sides = [nearest_multiples(side, step) for side in (height, width)]
    if sides == [[height], [width]]:
        return
    smaller, larger = (f"{pick(sides[0])}x{pick(sides[1])}" for pick in (min, max))
    near = smaller if smaller == larger else f"{smaller} or {larger}"
    raise InputError(
        f"{type(network).__name__} cannot take an image of {height}x{width} (height x width): sides"
        f" must be multiples of {step}; use {near}"
    )


def check_square_sizes(network: nn.Module, sizes: Iterable[tuple[str, int]]) -> None:
    """Check that a network accepts the sizes of square inputs.

    Args:
        network: the network.
        sizes: flag and side in pixels of each input.

    Raises:
        InputError: one is not accepted; the message names its flag and the nearest valid sizes.
    """
    step = size_step(network)
    for flag, side in dict(sizes).items():
        near = nearest_multiples(side, step)
        if near != [side]:
            raise InputError(
                f"{flag} {side}: {type(network).__name__} needs a multiple of {step}; use "
                f"{' or '.join(map(str, near))}"
            )
        refusal = _refusal(network, side)
        if refusal is not None:
            others = " or ".join(map(str, _nearest_accepted(network, side)))
            advice = f", such as {others}" if others else ""
            raise InputError(f"{flag} {side}: {refusal}{advice}")


def scaled_sizes(network: nn.Module, size: int) -> list[int]:
    """Return a size and the multiples of `size_step` nearest to 0.9 and 1.1 of it, ascending.

    They are fewer than three where the step between sizes is too coarse.
    """
    step = size_step(network)
    return sorted({size, *(max(1, round(scale * size / step)) * step for scale in (0.9, 1.1))})


def check_scales(network: nn.Module, size: int) -> None:
    """Check that a network can predict images of a size at several scales.

    Raises:
        InputError: there is no other size near 0.9 or 1.1 of it, or the network does not accept
            one of the `scaled_sizes`.
    """
    sizes, name = scaled_sizes(network, size), type(network).__name__
    if sizes == [size]:
        raise InputError(
            f"--tta scales: has no effect at {size} pixels, since {name} needs multiples of "
            f"{size_step(network)}, of which none is near 0.9 or 1.1 of it; leave it out"
        )
    refused = [side for side in sizes if _refusal(network, side) is not None]
    if refused:
        raise InputError(
            f"--tta scales: would show images of {size} pixels at {refused[0]} pixels, which {name}"
            " cannot take; use --tta none or hflip"
        )


def add_size_check(network: nn.Module) -> None:
    """Make a network check the size of every batch.

    A hook rather than a wrapper, so that parameters keep their names.
    """
    network.register_forward_pre_hook(_check_batch)


def nearest_multiples(size: int, step: int) -> list[int]:
    """Return `size` if it is a positive multiple of `step`, else the two nearest multiples."""
    if size > 0 and size % step == 0:
        return [size]
    below = max(step, size // step * step)
    return [below, below + step]


@torch.no_grad()
def _refusal(network: nn.Module, side: int) -> InputError | None:
    """Return why a network does not accept square images; None if it does.

    A multiple of `size_step` may still be refused: attention in windows needs whole windows, and
    a network may join features that fit only where their sides are even.
    """
    try:
        trial_output(network, 2, side)
    except InputError as error:
        return error
    return None


def _nearest_accepted(network: nn.Module, side: int) -> list[int]:
    """Return the nearest smaller and the nearest larger size that a network accepts, if near."""
    step = size_step(network)
    nearby = range(step, step * (_STEPS_NEARBY + 1), step)
    below = (side - change for change in nearby if change < side)
    above = (side + change for change in nearby)
    accepted = (
        next((size for size in sizes if _refusal(network, size) is None), None)
        for sizes in (below, above)
    )
    return [size for size in accepted if size is not None]


def _check_batch(network: nn.Module, inputs: tuple) -> None:
    check_image_size(network, *inputs[0].shape[-2:])
