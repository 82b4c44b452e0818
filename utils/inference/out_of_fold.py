"""What is kept of the prediction of an image that its network has not seen."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from utils.postprocessing.components import find_components
from utils.postprocessing.histograms import Histograms, count_levels


class Row(NamedTuple):
    """One image's part of `Histograms`; small, and sent between processes.

    Attributes:
        id: image id.
        height: pixels.
        width: pixels.
        all: [256] int32, see `Histograms`.
        mask: [256] int32, likewise.
        gate: [256] int32, likewise; None where the drawn map decides.
        presence: probability; None where no head gives it.
        components: [C,4] int64, see `find_components`; None where there are too many.
    """

    id: str
    height: int
    width: int
    all: np.ndarray
    mask: np.ndarray
    gate: np.ndarray | None
    presence: float | None
    components: np.ndarray | None


def describe_image(
    id: str,
    levels: np.ndarray,
    mask: np.ndarray,
    deciding: np.ndarray | None = None,
    presence: float | None = None,
) -> Row:
    """Measure one prediction at its image's original size.

    Args:
        id: image id.
        levels: [H,W] uint8, level floor(255 p) of the map that draws the mask.
        mask: [H,W] uint8 of 0 and 1, the truth.
        deciding: [H,W] uint8, the map that decides whether there is a mask; None if it is `levels`.
        presence: probability of an image-level head that there is a mask; None without a head.
    """
    everything, inside = _count(levels, mask)
    gate = None if deciding is None else _count(deciding, mask)[0]
    components = find_components(levels, mask)
    return Row(id, *levels.shape, everything, inside, gate, presence, components)


def collect(ids: Sequence[str], rows: Iterable[Row]) -> Histograms:
    """Put the rows of images together; components only where every image has them.

    Args:
        ids: of the images, in the order wanted; at least one.
        rows: one of each image, in any order; all with a gate or none, and so with presence.

    Raises:
        KeyError: an image has no row.
        ValueError: there are more rows than images, or only some have a gate or a presence.
    """
    by_id = {row.id: row for row in rows}
    ordered = [by_id.pop(name) for name in ids]
    if by_id:
        raise ValueError(f"rows of other images: {sorted(by_id)[:3]}")
    for name in ("gate", "presence"):
        if len({getattr(row, name) is None for row in ordered}) > 1:
            raise ValueError(f"some images have a {name} and some have none")
    column = {name: [getattr(row, name) for row in ordered] for name in Row._fields}
    first = ordered[0]
    return Histograms(
        ids=np.array(ids),
        height=np.array(column["height"], np.int32),
        width=np.array(column["width"], np.int32),
        all=np.stack(column["all"]),
        mask=np.stack(column["mask"]),
        gate=None if first.gate is None else np.stack(column["gate"]),
        presence=None if first.presence is None else np.array(column["presence"], np.float32),
        components=_number(column["components"]),
    )


def _count(levels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    # A map that was flipped back is a view that torch cannot take.
    pixels = (torch.from_numpy(np.ascontiguousarray(array)) for array in (levels, mask))
    return count_levels(*pixels).numpy()


def _number(tables: list[np.ndarray | None]) -> np.ndarray | None:
    if any(table is None for table in tables):
        return None
    places = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    return np.column_stack((places, np.concatenate(tables)))
