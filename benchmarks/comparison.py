"""Out-of-fold results of several ways to train, image by image, and their paired differences."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from utils.commands.paths import file_to_read, folder_to_read
from utils.csv_files import read_columns
from utils.errors import InputError
from utils.evaluation.bootstrap import bootstrap_interval
from utils.evaluation.image_level import auc_difference, auc_with_interval
from utils.evaluation.scoring import Estimate
from utils.files import atomic_write
from utils.postprocessing.rule import score_images

_COLUMNS = ["ImageId", "PatientId", "positive", "dice", "predicted", "score", "seconds"]


@dataclass(frozen=True)
class Scored:
    """The validation images of all folds, each scored by a network that did not train on it.

    Attributes:
        ids: N image ids, sorted.
        patients: patient of each image; empty if unknown.
        positive: [N] bool, the true mask is not empty.
        dice: [N] Dice of each image, at its original size.
        predicted: [N] bool, a mask was predicted.
        score: [N] float, higher for images more likely to have a mask.
        seconds: [N] float, the training time of the image's fold.
    """

    ids: list[str]
    patients: list[str]
    positive: np.ndarray
    dice: np.ndarray
    predicted: np.ndarray
    score: np.ndarray
    seconds: np.ndarray

    def save(self, path: Path) -> None:
        """Write a csv with one row per image, for `read_scored`."""
        columns = (
            self.ids,
            self.patients,
            self.positive.astype(int),
            self.dice,
            self.predicted.astype(int),
            self.score,
            self.seconds,
        )
        table = pd.DataFrame(dict(zip(_COLUMNS, columns, strict=True)))
        with atomic_write(path) as temporary:
            table.to_csv(temporary, index=False)


def read_scored(path: Path) -> Scored:
    """Read a csv that `Scored.save` wrote."""
    rows = [values for _, values in read_columns(path, _COLUMNS, "a csv of scored images")]
    table = pd.DataFrame(sorted(rows), columns=_COLUMNS)
    numbers = {name: table[name].astype(float).to_numpy() for name in _COLUMNS[2:]}
    return Scored(
        table["ImageId"].tolist(),
        table["PatientId"].tolist(),
        numbers["positive"] > 0,
        numbers["dice"],
        numbers["predicted"] > 0,
        numbers["score"],
        numbers["seconds"],
    )


def add_fold_flags(add: Callable) -> None:
    """Add the flags of the data and of its folds, with the `add_argument` of a parser."""
    add(
        "--data",
        type=folder_to_read("--data", "a folder with train_images/ and train_mask/"),
        required=True,
        help="folder with train_images/ and train_mask/",
    )
    add(
        "--groups",
        type=file_to_read("--groups", "a csv of ImageId,PatientId"),
        required=True,
        help="csv with the columns ImageId and PatientId",
    )
    add("--n_splits", type=int, default=5, help="number of folds (default: 5)")
    add("--folds", default="0,1", help="folds to train (default: 0,1)")


def compare(name: str, mine: Scored, first: Scored) -> dict:
    """Return a row of the table: the scores of `mine`, and its gains over `first`.

    Raises:
        InputError: the two have different images.
    """
    if mine.ids != first.ids:
        raise InputError(f"{name} has other images than the first row; give the same --folds")
    empty = (~mine.positive).astype(float)
    return {
        "name": name,
        **vars(score_images(mine.dice, mine.predicted, mine.positive)),
        "dice_interval": _with_interval(mine.dice, mine.patients),
        "gain_over_empty": _with_interval(mine.dice - empty, mine.patients),
        "gain": _with_interval(mine.dice - first.dice, mine.patients),
        "auc": _values(auc_with_interval(mine.score, mine.positive, mine.patients)),
        "auc_gain": _values(auc_difference(mine.score, first.score, mine.positive, mine.patients)),
        "seconds": float(np.mean(np.unique(mine.seconds))),
    }


def as_table(rows: Sequence[dict]) -> str:
    """Format rows of `compare` as a Markdown table."""
    lines = [
        "| | Dice (95 %) | gain over no masks (95 %) | gain over the first (95 %) | on positives | "
        "empties kept | masks | AUC (95 %) | gain in AUC (95 %) | s per fold |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [row["name"], *(_span(row[key]) for key in ("dice_interval", "gain_over_empty"))]
        cells += [_span(row["gain"]), f"{row['dice_positive']:.4f}", f"{row['empty_kept']:.4f}"]
        cells += [str(row["predicted"]), _span(row["auc"]), _span(row["auc_gain"])]
        lines.append(f"| {' | '.join([*cells, format(row['seconds'], '.0f')])} |")
    return "\n".join(lines)


def _with_interval(values: np.ndarray, patients: Sequence[str]) -> list[float]:
    return [float(values.mean()), *bootstrap_interval(values, patients)]


def _values(estimate: Estimate) -> list[float]:
    return [estimate.mean, estimate.low, estimate.high]


def _span(values: Sequence[float]) -> str:
    value, low, high = values
    return f"{value:.4f} ({low:.4f} to {high:.4f})"
