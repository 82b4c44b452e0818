"""Bootstrap intervals of a mean over images, resampling patients where they are known."""

from collections.abc import Sequence

import numpy as np

DRAWS = 2000


def bootstrap_interval(
    values: np.ndarray, groups: Sequence[str] | np.ndarray | None = None, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the mean (Efron 1979).

    Images of one patient are drawn together, since they are correlated.

    Args:
        values: [N] float, one per image.
        groups: [N] patient of each image; an empty text is a patient of its own. None draws
            single images.
        seed: of the draws.

    Returns:
        The 2.5 and the 97.5 percentile; NaN without values.
    """
    if not len(values):
        return float("nan"), float("nan")
    groups = [""] * len(values) if groups is None else groups
    _, group_of = index_groups(groups)
    sums, counts = np.bincount(group_of, values), np.bincount(group_of)
    groups_drawn = np.random.default_rng(seed).multinomial(
        len(sums), np.full(len(sums), 1 / len(sums)), size=DRAWS
    )
    low, high = np.percentile(groups_drawn @ sums / (groups_drawn @ counts), (2.5, 97.5))
    return float(low), float(high)


def index_groups(groups: Sequence[str] | np.ndarray) -> tuple[int, np.ndarray]:
    """Return the number of groups and the [N] index of each image's; an empty text is its own."""
    names = [group or f"image {i}" for i, group in enumerate(groups)]
    distinct, number = np.unique(names, return_inverse=True)
    return len(distinct), number
