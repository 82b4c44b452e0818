"""Mean Dice of many rules at once, from what each image gives under each of them."""

import numpy as np

_DECIMALS = 12


def dice_volume(
    passes: np.ndarray, dice: np.ndarray, positive: np.ndarray, gates: tuple[int, int]
) -> np.ndarray:
    """Mean Dice behind two gates, the stricter ones of which pass fewer of the same images.

    Args:
        passes: [2,N] int, how many gates of the first kind each image passes, being the first so
            many of them, and how many of the second.
        dice: [N,T] Dice of each image under each of T ways to draw, if it passes.
        positive: [N] bool, the true mask has a pixel; one that does not pass is left empty.
        gates: number of gates of the first kind, G, and of the second, H.

    Returns:
        [G,H,T] float64, rounded to 12 decimals so that equal scores compare equal.
    """
    if_empty = (~positive).astype(float)
    shape = tuple(count + 1 for count in gates)
    cell = np.ravel_multi_index(passes, shape)
    order = np.argsort(cell, kind="stable")
    # Images that pass the same gates are summed first: the sums over gates are then small ones.
    cells, starts = np.unique(cell[order], return_index=True)
    gain = np.zeros((np.prod(shape), dice.shape[1]))
    gain[cells] = np.add.reduceat((dice - if_empty[:, None])[order], starts, axis=0)
    gain = gain.reshape(*shape, -1)[::-1, ::-1].cumsum(axis=0).cumsum(axis=1)[::-1, ::-1]
    return np.round((if_empty.sum() + gain[1:, 1:]) / len(dice), _DECIMALS)


def dice_surface(
    gate: np.ndarray, dice: np.ndarray, positive: np.ndarray, min_areas: np.ndarray
) -> np.ndarray:
    """Mean Dice for every minimum area and threshold behind one gate.

    Args:
        gate: [N] pixels of each image above the top threshold.
        dice: [N,T] Dice of each image at each threshold, if it passes the gate.
        positive: [N] bool, the true mask has a pixel.
        min_areas: [A] pixels.

    Returns:
        [A,T] float64, rounded as `dice_volume` does.
    """
    ascending, place = np.unique(min_areas, return_inverse=True)
    passes = np.stack((count_passed(ascending, gate), np.ones_like(gate)))
    return dice_volume(passes, dice, positive, (len(ascending), 1))[place, 0]


def count_passed(least: np.ndarray, values: np.ndarray) -> np.ndarray:
    """[N] int: how many of the ascending `least` [A] each of the [N] values reaches."""
    return np.searchsorted(least, values, side="right")


def mean_dice(dice: np.ndarray) -> float:
    """Mean of [N] Dice, rounded as `dice_volume` does."""
    return round(float(dice.mean()), _DECIMALS)
