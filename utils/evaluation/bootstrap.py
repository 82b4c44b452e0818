"""How far a mean over images may be off: bootstrap intervals, over patients where known."""

from collections.abc import Sequence

import numpy as np

DRAWS = 2000


def interval(
    values: np.ndarray, groups: Sequence[str] | None = None, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the mean (Efron 1979).

    Images of one patient are drawn together, because they are alike.

    Args:
        values: [N] float, one an image.
        groups: [N] patient of each image; an empty text is a patient of its own. None draws single
            images.
        seed: decides the draws.

    Returns:
        The 2.5 and the 97.5 percentile; NaN where there are no values.
    """
    if not len(values):
        return float("nan"), float("nan")
    groups = [""] * len(values) if groups is None else groups
    _, group_of = number_groups(groups)
    sums, counts = np.bincount(group_of, values), np.bincount(group_of)
    groups_drawn = np.random.default_rng(seed).multinomial(
        len(sums), np.full(len(sums), 1 / len(sums)), size=DRAWS
    )
    low, high = np.percentile(groups_drawn @ sums / (groups_drawn @ counts), (2.5, 97.5))
    return float(low), float(high)


def number_groups(groups: Sequence[str]) -> tuple[int, np.ndarray]:
    """Count the groups, an empty text being one of its own, and give the [N] number of each's."""
    names = [group or f"image {i}" for i, group in enumerate(groups)]
    distinct, number = np.unique(names, return_inverse=True)
    return len(distinct), number
