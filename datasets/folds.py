"""Folds: plain, stratified or grouped by patient; the order of the files does not matter."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

from utils.csv_files import read_columns
from utils.errors import InputError
from utils.files import atomic_write

FOLD_SEED = 1
"""Fixed, so that folds do not depend on the seed of a run."""


@dataclass(frozen=True)
class Fold:
    """The images of one fold.

    Attributes:
        number: index of the fold that is held out for validation.
        train: image ids to train on, sorted.
        valid: image ids to validate on, sorted.
        positive: ids of the positives in both.
    """

    number: int
    train: list[str]
    valid: list[str]
    positive: frozenset[str]

    def only_positives(self) -> "Fold":
        """Return the fold without its empty images."""
        train, valid = (
            [name for name in ids if name in self.positive] for ids in (self.train, self.valid)
        )
        return replace(self, train=train, valid=valid)


def make_folds(
    positive: dict[str, bool],
    n_splits: int,
    stratified: bool,
    patients: dict[str, str] | None = None,
    grouped: bool = False,
) -> pd.DataFrame:
    """Split images into folds.

    Args:
        positive: whether each image id is a positive.
        n_splits: number of folds.
        stratified: give all folds the same share of positives, as nearly as possible.
        patients: patient of each image id, where known.
        grouped: keep all images of a patient in one fold; an image of unknown patient counts as a
            patient.

    Returns:
        The table of folds.csv: `ImageId`, `fold`, `positive` (0 or 1) and `PatientId` (empty if
        unknown), sorted by `ImageId`.

    Raises:
        InputError: there are fewer images, positives or patients than folds.
    """
    ids = sorted(positive)
    labels = np.array([int(positive[image_id]) for image_id in ids])
    known = [(patients or {}).get(image_id, "") for image_id in ids]
    _check_enough(labels, n_splits, stratified)
    groups = None
    if grouped:
        groups = _groups(ids, known)
        if len(set(groups)) < n_splits:
            raise InputError(
                f"{len(set(groups))} patients are too few for --n_splits {n_splits}; use fewer"
                " folds"
            )
    fold = np.zeros(len(ids), dtype=int)
    for number, (_, valid) in enumerate(
        _splitter(n_splits, stratified, grouped).split(ids, labels, groups)
    ):
        fold[valid] = number
    return pd.DataFrame({"ImageId": ids, "fold": fold, "positive": labels, "PatientId": known})


def _groups(ids: list[str], known: list[str]) -> list[int]:
    """Return the number of each image's patient; an image of unknown patient has its own."""
    # Marked, because a patient may have the name that an image gets. Folds depend on this order.
    names = [(patient or f"image {i}", not patient) for i, patient in zip(ids, known, strict=True)]
    number = {name: n for n, name in enumerate(sorted(set(names)))}
    return [number[name] for name in names]


def _splitter(n_splits: int, stratified: bool, grouped: bool) -> Any:
    kinds = {
        (False, False): KFold,
        (True, False): StratifiedKFold,
        (False, True): GroupKFold,
        (True, True): StratifiedGroupKFold,
    }
    return kinds[stratified, grouped](n_splits, shuffle=True, random_state=FOLD_SEED)


def _check_enough(labels: np.ndarray, n_splits: int, stratified: bool) -> None:
    if len(labels) < n_splits:
        raise InputError(
            f"{len(labels)} images are too few for --n_splits {n_splits}; use fewer folds"
        )
    if stratified:
        for name, count in (("positive", labels.sum()), ("empty", (labels == 0).sum())):
            if 0 < count < n_splits:
                raise InputError(
                    f"{count} {name} images are too few for --n_splits {n_splits} stratified folds;"
                    " use fewer folds, or main.py, which does not stratify"
                )


def get_fold(table: pd.DataFrame, number: int) -> Fold:
    """Return fold `number` of a table from `make_folds`."""
    held_out = table["fold"] == number
    return Fold(
        number,
        train=table.loc[~held_out, "ImageId"].tolist(),
        valid=table.loc[held_out, "ImageId"].tolist(),
        positive=frozenset(table.loc[table["positive"] == 1, "ImageId"]),
    )


def shared_patients(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the images that share a patient with another fold."""
    known = table[table["PatientId"] != ""]
    return known[known.groupby("PatientId")["fold"].transform("nunique") > 1]


def describe_leakage(table: pd.DataFrame) -> str:
    """Describe how many images, and how many positives, share a patient with another fold."""
    known = table[table["PatientId"] != ""]
    if known.empty:
        return "patients unknown: images of one patient may be in different folds"
    shared = shared_patients(table)
    text = (
        f"{len(shared)} of {len(known)} images, and {shared['positive'].sum()} of "
        f"{known['positive'].sum()} positives, share a patient with another fold"
    )
    unknown = len(table) - len(known)
    return f"{text}; the patient of {unknown} images is unknown" if unknown else text


def write_folds(table: pd.DataFrame, path: str | Path) -> None:
    """Write folds.csv, atomically."""
    with atomic_write(path) as temporary:
        table.to_csv(temporary, index=False)


def read_folds(path: str | Path) -> pd.DataFrame:
    """Read a folds.csv written by `write_folds`.

    Raises:
        InputError: the file is missing or is not a table of folds.
    """
    columns, what = ("ImageId", "fold", "positive", "PatientId"), "a table of folds"
    rows = read_columns(path, columns, what)
    texts = {name: [values[i] for _, values in rows] for i, name in enumerate(columns)}
    try:
        return pd.DataFrame(texts).astype({"fold": np.int64, "positive": np.int64})
    except (ValueError, OverflowError) as error:
        raise InputError(f"{path} cannot be read as {what}: {error}") from error
