"""Kaggle's Dice, from one histogram of probabilities per image.

Dice of an image is 2|A and B| / (|A| + |B|), and 1 when both are empty; the score is the mean over
images. Source: the SIIM-ACR Pneumothorax Segmentation evaluation page.

Probabilities are quantised to 256 levels. From the histogram of the levels over all pixels, and the
one over the pixels of the true mask, area and intersection follow at every threshold without
another pass.
"""

import io
import zipfile
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import InputError, cause_of
from utils.evaluation.scoring import dice_score
from utils.files import atomic_write
from utils.limits import HISTOGRAM_BYTES, check_file_size
from utils.postprocessing.components import check_components

LEVELS = 256
_LIST = "arrays"
"""Name of the array that lists the others."""


def level_of(threshold: float) -> int:
    """Return the level of a threshold from 0 to 1.

    What a threshold means, everywhere: a probability p is known as its level floor(255 p), a
    threshold t is the level round(255 t), and a pixel is above it if its level is higher. The cut
    is therefore at the probability `lowest_above`, 0.5 to 1.5 levels above t: 129 / 255 = 0.5059
    for a threshold of 0.5.
    """
    return round(threshold * (LEVELS - 1))


def lowest_above(threshold: float) -> float | None:
    """Return the lowest probability that is above a threshold; None if none is, as above 1."""
    level = level_of(threshold) + 1
    return level / (LEVELS - 1) if level < LEVELS else None


def threshold_of(level: int) -> float:
    """Return the threshold of a level, to four decimals; `level_of` is the inverse."""
    return round(level / (LEVELS - 1), 4)


@dataclass(frozen=True)
class Histograms:
    """Pixel counts per level for a set of images, at their original sizes.

    Attributes:
        ids: [N] image ids.
        height: [N] int32, pixels.
        width: [N] int32, pixels.
        all: [N,256] int32, counts over all pixels.
        mask: [N,256] int32, counts over the pixels of the true mask.
        gate: [N,256] int32, counts over all pixels of the gate map; None if the probability map is
            the gate map.
        presence: [N] float32, probability of the presence head; None without one.
        maximum: [N] float32, the largest probability of the gate map; None in files of earlier
            versions, where only its level is known.
        components: [C,5] int64, the components of the probability maps, see
            `utils.postprocessing.components.COMPONENT_COLUMNS`; None if they were not measured.
    """

    ids: np.ndarray
    height: np.ndarray
    width: np.ndarray
    all: np.ndarray
    mask: np.ndarray
    gate: np.ndarray | None = None
    presence: np.ndarray | None = None
    maximum: np.ndarray | None = None
    components: np.ndarray | None = None

    @property
    def positive(self) -> np.ndarray:
        """[N] bool: the true mask is not empty."""
        return self.mask.sum(axis=1) > 0

    def areas(self) -> np.ndarray:
        """[N,256] int64: pixels above each level."""
        return _above(self.all)

    def gate_areas(self) -> np.ndarray:
        """[N,256] int64: pixels of the gate map above each level."""
        return _above(self.all if self.gate is None else self.gate)

    def image_scores(self) -> np.ndarray:
        """[N] float from 0 to 1, the probability of a mask as in the scores.csv of predict.py.

        It is the presence probability or, without a head, the largest probability of the gate map.
        Images tie if only the levels of their maxima are known and are the same.
        """
        if self.presence is not None:
            return self.presence
        if self.maximum is not None:
            return self.maximum
        counts = self.all if self.gate is None else self.gate
        return 1 - (counts[:, ::-1] > 0).argmax(axis=1) / (LEVELS - 1)

    def inside(self) -> np.ndarray:
        """[N,256] int64: pixels of the true mask above each level."""
        return _above(self.mask)

    def dice(self) -> np.ndarray:
        """[N,256] float64: Dice of each image at each level, without gate or filter."""
        return dice_score(self.areas(), self.inside(), self.mask.sum(axis=1, keepdims=True))

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays that are not None, by name."""
        return {name: array for name, array in vars(self).items() if array is not None}

    def save(self, path: str | Path) -> None:
        """Write the arrays as a compressed npz with a list of their names, atomically."""
        with atomic_write(path) as temporary:
            # First, because damage to one entry of a zip's directory can hide all that follow it.
            arrays: dict[str, Any] = {_LIST: np.array(list(self.arrays()))}
            np.savez_compressed(temporary, **(arrays | self.arrays()))


def load_histograms(path: str | Path) -> Histograms:
    """Read an npz that `Histograms.save` wrote.

    A file of an older version, which has no list of its arrays, is read as it is.

    Raises:
        InputError: the file is missing, damaged or too large, or an array is missing or has the
            wrong shape or dtype.
    """
    try:
        with zipfile.ZipFile(path) as file:
            unpacked = sum(member.file_size for member in file.infolist())
            check_file_size(path, unpacked, HISTOGRAM_BYTES)
            found = {name.removesuffix(".npy") for name in file.namelist()}
            if _LIST in found:
                _check_list(_read_array(file, _LIST), found - {_LIST})
            names = {*_REQUIRED, *(name for name in _OPTIONAL if name in found)}
            histograms = Histograms(**{name: _read_array(file, name) for name in names})
        _check_form(histograms)
    except InputError:
        raise
    except Exception as error:  # zipfile, zlib and numpy raise their own errors here
        raise InputError(
            f"{path} cannot be read as out-of-fold histograms: {cause_of(error)}"
        ) from error
    return histograms


def _read_array(file: zipfile.ZipFile, name: str) -> np.ndarray:
    # numpy.load reads only as many bytes as an array's header asks for; the checksum is compared
    # once all are read.
    data = io.BytesIO(file.read(f"{name}.npy"))
    return np.lib.format.read_array(data, allow_pickle=False)


def _check_list(listed: np.ndarray, found: set[str]) -> None:
    """Compare the file's list of arrays with its directory, from which a bit can remove one."""
    if set(listed.tolist()) != found:
        raise ValueError(
            f"it holds {', '.join(sorted(found))}, but was written with {', '.join(listed)}"
        )


def _check_form(histograms: Histograms) -> None:
    count = histograms.ids.shape[:1]
    shapes = dict.fromkeys(("ids", "height", "width", "presence", "maximum"), count)
    kinds = {"ids": ("U", "text"), "presence": ("f", "float"), "maximum": ("f", "float")}
    arrays = histograms.arrays()
    components = arrays.pop("components", None)
    for name, array in arrays.items():
        shape = shapes.get(name, (*count, LEVELS))
        kind, kind_name = kinds.get(name, ("i", "int"))
        if array.shape != shape or array.dtype.kind != kind:
            raise ValueError(f"{name} is {array.dtype} {array.shape}, expected {kind_name} {shape}")
    for name in ("presence", "maximum"):
        probability = arrays.get(name, np.zeros(0))
        if not ((probability >= 0) & (probability <= 1)).all():
            raise ValueError(f"{name} is not between 0 and 1")
    if components is not None:
        check_components(components, histograms.areas(), histograms.inside())


def align_folds(folds: Sequence[Histograms]) -> list[Histograms]:
    """Return the histograms of several folds with the same optional arrays, so that one rule fits.

    Presence, maximum and components are dropped from all folds if one lacks them, as one trained by
    an older version does. If some folds have a gate map, the others use their probability map as
    one.
    """
    optional = ("presence", "maximum", "components")
    missing = {name for name in optional if any(vars(fold)[name] is None for fold in folds)}
    changes: list[dict] = [dict.fromkeys(missing) for _ in folds]
    if any(fold.gate is not None for fold in folds):
        for fold, change in zip(folds, changes, strict=True):
            change["gate"] = fold.all if fold.gate is None else fold.gate
    return [replace(fold, **change) for fold, change in zip(folds, changes, strict=True)]


def concatenate(folds: Sequence[Histograms]) -> Histograms:
    """Concatenate the histograms of several folds, after `align_folds`."""
    arrays = [fold.arrays() for fold in align_folds(folds)]
    joined = {name: np.concatenate([fold[name] for fold in arrays]) for name in arrays[0]}
    if "components" in joined:
        # Components refer to images by index, which is counted per fold until here.
        offsets = np.cumsum([0, *(len(fold["ids"]) for fold in arrays)])[:-1]
        rows = [len(fold["components"]) for fold in arrays]
        joined["components"][:, 0] += np.repeat(offsets, rows)
    return Histograms(**joined)


_REQUIRED = [field.name for field in fields(Histograms) if field.default is MISSING]
_OPTIONAL = [field.name for field in fields(Histograms) if field.default is not MISSING]


def _above(counts: np.ndarray) -> np.ndarray:
    at_or_above = np.cumsum(counts[:, ::-1], axis=1, dtype=np.int64)[:, ::-1]
    return at_or_above - counts
