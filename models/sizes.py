"""Image sizes: one that a network cannot downsample evenly is refused before any computation."""

from collections.abc import Iterable

from torch import nn

from utils.errors import InputError


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
    for flag, side in sizes:
        near = nearest_multiples(side, step)
        if near != [side]:
            raise InputError(
                f"{flag} {side}: {type(network).__name__} needs a multiple of {step}; use "
                f"{' or '.join(map(str, near))}"
            )


def scaled_sizes(network: nn.Module, size: int) -> list[int]:
    """Return a size and the sizes nearest to 0.9 and 1.1 of it that a network accepts, ascending.

    They are fewer than three where the step between sizes is too coarse.
    """
    step = size_step(network)
    return sorted({size, *(max(1, round(scale * size / step)) * step for scale in (0.9, 1.1))})


def check_scales(network: nn.Module, size: int) -> None:
    """Check that a network accepts another size near 0.9 or 1.1 of an image size.

    Raises:
        InputError: it does not.
    """
    if scaled_sizes(network, size) == [size]:
        raise InputError(
            f"--tta scales: has no effect at {size} pixels, since {type(network).__name__} needs "
            f"multiples of {size_step(network)}, of which none is near 0.9 or 1.1 of it; leave it "
            "out"
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


def _check_batch(network: nn.Module, inputs: tuple) -> None:
    check_image_size(network, *inputs[0].shape[-2:])
