"""Bootstrap intervals over images, resampling patients if they are known."""

from collections.abc import Sequence

import numpy as np

DRAWS = 2000


def bootstrap_interval(
    values: np.ndarray, groups: Sequence[str] | np.ndarray | None = None, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the mean (Efron 1979).

    All images of a patient are drawn together, since they are correlated.

    Args:
        values: [N] float, one per image.
        groups: [N] patient of each image; an image with an empty name is its own patient. None
            draws single images.
        seed: seed of the draws.

    Returns:
        The 2.5th and the 97.5th percentile; NaN without values.
    """
    return bootstrap_ratio(values, np.ones(len(values)), groups, seed)


def bootstrap_ratio(
    parts: np.ndarray,
    wholes: np.ndarray,
    groups: Sequence[str] | np.ndarray | None = None,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the 95 % interval of the sum of `parts` over the sum of `wholes`, drawn as above.

    Args:
        parts: [N] float, one per image.
        wholes: [N] float, 0 or more; a draw in which all are 0 does not count.
        groups: see `bootstrap_interval`.
        seed: seed of the draws.

    Returns:
        The 2.5th and the 97.5th percentile; NaN if all wholes are 0.
    """
    if not np.any(wholes):
        return float("nan"), float("nan")
    groups = [""] * len(parts) if groups is None else groups
    _, group_of = index_groups(groups)
    sums, counts = np.bincount(group_of, parts), np.bincount(group_of, wholes)
    groups_drawn = np.random.default_rng(seed).multinomial(
        len(sums), np.full(len(sums), 1 / len(sums)), size=DRAWS
    )
    drawn_parts, drawn_wholes = groups_drawn @ sums, groups_drawn @ counts
    is_drawn = drawn_wholes > 0
    low, high = np.percentile(drawn_parts[is_drawn] / drawn_wholes[is_drawn], (2.5, 97.5))
    return float(low), float(high)


def index_groups(groups: Sequence[str] | np.ndarray) -> tuple[int, np.ndarray]:
    """Return the number of groups and the [N] group index of each image; "" is its own group."""
    # Marked, because a patient may have the name that an image gets.
    names = [(group or f"image {i}", not group) for i, group in enumerate(groups)]
    number = {name: n for n, name in enumerate(sorted(set(names)))}
    return len(number), np.array([number[name] for name in names], dtype=np.int64)
