"""The images that tell most: best, median, worst, missed and false ones, as pictures."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from utils.drawing import fit, fit_mask

SIDE = 512
"""Longer side of a picture in pixels."""
_QUALITY = 82
_TOLERANCE = 0.6
"""Pixels of a picture by which an outline may be simplified."""


class Kind(NamedTuple):
    """A kind of case: its title, and what is counted among it."""

    name: str
    meaning: str


KINDS = (
    Kind("Missed", "positives left without a mask, the largest first"),
    Kind("False", "empty images with a mask, the largest first"),
    Kind("Worst", "positives with a mask, the lowest Dice first"),
    Kind("Best", "positives with a mask, the highest Dice first"),
    Kind("Median", "positives with a mask, nearest to their median Dice"),
)


@dataclass(frozen=True)
class Areas:
    """What cases are chosen by.

    Attributes:
        ids: [N] image ids.
        dice: [N] Dice of each image.
        truth: [N] pixels of the true mask.
        predicted: [N] pixels of the predicted mask.
    """

    ids: np.ndarray
    dice: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray


class Picture(NamedTuple):
    """An image, as a data URI, and the outlines of its masks, as SVG paths in its pixels."""

    width: int
    height: int
    image: str
    truth: str
    prediction: str


class Case(NamedTuple):
    """One image of a kind."""

    id: str
    dice: float
    truth: int
    predicted: int
    picture: Picture


def choose_cases(areas: Areas, count: int) -> dict[str, list[int]]:
    """Choose up to `count` images of every kind, each for one kind only.

    Returns:
        Indices of the images by name of the kind; ties go to the first id.
    """
    positive, has_mask = areas.truth > 0, areas.predicted > 0
    found = positive & has_mask
    median = np.median(areas.dice[found]) if found.any() else 0.0
    ranks = (
        (positive & ~has_mask, -areas.truth),
        (~positive & has_mask, -areas.predicted),
        (found, areas.dice),
        (found, -areas.dice),
        (found, abs(areas.dice - median)),
    )
    chosen: dict[str, list[int]] = {}
    used: set[int] = set()
    for kind, (members, rank) in zip(KINDS, ranks, strict=True):
        order = np.lexsort((areas.ids, rank))
        chosen[kind.name] = [int(i) for i in order if members[i] and i not in used][:count]
        used.update(chosen[kind.name])
    return chosen


def draw_picture(grey: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> Picture:
    """Encode an image as JPEG and its masks as outlines.

    Args:
        grey: [H,W] uint8.
        truth: [H,W] uint8 of 0 and 1.
        prediction: [H,W] uint8 of 0 and 1.
    """
    small = fit(grey, SIDE)
    data = cv2.imencode(".jpg", small, (cv2.IMWRITE_JPEG_QUALITY, _QUALITY))[1].tobytes()
    return Picture(
        small.shape[1],
        small.shape[0],
        f"data:image/jpeg;base64,{base64.b64encode(data).decode()}",
        trace_outline(fit_mask(truth, SIDE)),
        trace_outline(fit_mask(prediction, SIDE)),
    )


def trace_outline(mask: np.ndarray) -> str:
    """Return the outlines of a mask, [H,W] uint8 of 0 and 1, as an SVG path; empty without any."""
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return "".join(_path(cv2.approxPolyDP(c, _TOLERANCE, True)[:, 0].tolist()) for c in contours)


def _path(corners: Sequence[Sequence[int]]) -> str:
    # Contours run through the middles of pixels.
    return "M" + "L".join(f"{x + 0.5:g},{y + 0.5:g}" for x, y in corners) + "Z"
