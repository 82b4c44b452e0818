"""A finished run without networks: what a report needs, made in a moment."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd

from tests.helpers.makers import blobs
from utils.postprocessing.histograms import Histograms, threshold_of
from utils.postprocessing.rule import PostProcess

FULL_RULE = PostProcess(threshold_of(103), 16, threshold_of(139), 0.2, 2, 0.4)
"""A rule with every part, one of which is not on the grid of the search."""


def write_finished(
    folder: Path, rule: PostProcess = FULL_RULE, seed: int = 0, prefix: str = "image"
) -> Path:
    """Write config.yaml, folds.csv, threshold.json and two folds' oof.npz; return the folder."""
    rows: list[tuple] = []
    folds = [fold_histograms(n, seed, prefix) for n in range(2)]
    for n, histograms in enumerate(folds):
        (folder / f"fold{n}").mkdir(parents=True)
        histograms.save(folder / f"fold{n}" / "oof.npz")
        positive = histograms.positive.astype(int)
        for i, name in enumerate(histograms.ids.tolist()):
            rows.append((name, n, positive[i], f"patient{i // 2}-{n}"))
    table = pd.DataFrame(rows, columns=["ImageId", "fold", "positive", "PatientId"])
    table.sort_values("ImageId").to_csv(folder / "folds.csv", index=False)
    (folder / "config.yaml").write_text(f"seed: 1\nrun_name: {folder.name}\nn_splits: 2\nlr: 0.5\n")
    write_chosen(folder, rule, [rule, replace(rule, threshold=threshold_of(151))])
    return folder


def fold_histograms(number: int, seed: int, prefix: str) -> Histograms:
    """Generate the out-of-fold histograms of a fold, of 14 images."""
    histograms = blobs(seed + number, gate=False, presence=True, components=True, images=14)
    return replace(histograms, ids=np.array([f"{prefix}{number}-{i}" for i in range(14)]))


def write_chosen(folder: Path, rule: PostProcess, cross_fitted: Sequence[PostProcess]) -> None:
    """Write threshold.json, with a rule for each fold."""
    folds = [
        {"fold": n, "cross_fitted": asdict(own), "pooled": asdict(rule)}
        for n, own in enumerate(cross_fitted)
    ]
    content = {**asdict(rule), "family": "triplet", "cross_fitted": {}, "folds": folds}
    (folder / "threshold.json").write_text(json.dumps(content))
