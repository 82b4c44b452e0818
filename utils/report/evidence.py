"""The files of a finished run that a report is made of, read once."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from datasets.folds import read_folds
from utils.config.settings import Config
from utils.inference.runs import read_run_config
from utils.postprocessing.histograms import Histograms, align_folds, concatenate
from utils.postprocessing.selection import Chosen, FoldScores, apply_rules, read_chosen
from utils.postprocessing.summary import load_folds


@dataclass(frozen=True)
class Evidence:
    """A run and how its networks did on the images that they were not trained on.

    Attributes:
        folder: of the run.
        config: its settings.
        table: the content of folds.csv.
        folds: out-of-fold histograms by number of the fold.
        pooled: the images of all folds, N of them, fold after fold.
        fold_of: [N] int, the fold of each image.
        patients: [N] patient of each image; empty if unknown.
        chosen: the rules of threshold.json.
        scores: each image by `chosen.rules`.
    """

    folder: Path
    config: Config
    table: pd.DataFrame
    folds: dict[int, Histograms]
    pooled: Histograms
    fold_of: np.ndarray
    patients: np.ndarray
    chosen: Chosen
    scores: FoldScores

    @property
    def name(self) -> str:
        """Network and name of the run."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def probability(self) -> np.ndarray:
        """[N] float from 0 to 1: the presence or, without a head, the gate map's largest value."""
        return self.pooled.image_scores().astype(float)

    @property
    def empty_dice(self) -> np.ndarray:
        """[N] float: the Dice of each image if every image is left empty."""
        return (~self.pooled.positive).astype(float)


def read_evidence(folder: Path) -> Evidence:
    """Read a run of which at least one fold is finished.

    Raises:
        InputError: the folder is not a run's, no fold is finished, or a file is missing or
            damaged, or the thresholds are for other folds than are finished.
    """
    config, loaded = read_run_config(folder, "all"), load_folds(folder)
    folds = dict(zip(loaded, align_folds(list(loaded.values())), strict=True))
    table, pooled = read_folds(folder / "folds.csv"), concatenate(list(folds.values()))
    patient_of = dict(zip(table["ImageId"], table["PatientId"], strict=True))
    chosen = read_chosen(folder)
    return Evidence(
        folder,
        config,
        table,
        folds,
        pooled,
        np.repeat([*folds], [len(fold.ids) for fold in folds.values()]),
        np.array([patient_of.get(name, "") for name in pooled.ids.tolist()]),
        chosen,
        apply_rules(folds, chosen.rules),
    )
