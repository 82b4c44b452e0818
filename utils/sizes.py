"""Image sizes that can be halved cleanly."""


def nearest_multiples(size: int, step: int) -> list[int]:
    """Return `size` if it is a positive multiple of `step`, else the two that are nearest."""
    if size > 0 and size % step == 0:
        return [size]
    below = max(step, size // step * step)
    return [below, below + step]
