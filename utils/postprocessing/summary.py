"""The summary of a run, computed from the oof.npz files of its folds."""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from datasets.folds import read_folds
from utils.config.layout import finished_folds
from utils.errors import InputError
from utils.files import write_json
from utils.postprocessing.histograms import Histograms, concatenate, load_histograms
from utils.postprocessing.leakage import out_of_fold
from utils.postprocessing.rule import score
from utils.postprocessing.search import best_pair

_AVERAGED = ("dice", "baseline", "dice_positive", "empty_kept")


def summarise_run(folder: Path) -> dict:
    """Score the out-of-fold histograms of every finished fold and write summary.json.

    Each rule (threshold, min_area) is chosen on the images it is scored on, one on each fold and
    one on all folds pooled, so the scores are slightly optimistic. Predicting no mask anywhere
    scores `baseline`.

    Returns:
        `folds`: number, images, positives, rule and scores of each fold; `mean` and `deviation`
        (sample standard deviation) of the scores over folds; `pooled`: the same as for a fold, with
        one rule for all folds; `out_of_fold`, and the reason if it is false (see
        `leakage.out_of_fold`).

    Raises:
        InputError: no fold is finished.
    """
    finished = load_folds(folder)
    folds = [{"fold": number, **_row(histograms)} for number, histograms in finished.items()]
    columns = {name: np.array([row[name] for row in folds]) for name in _AVERAGED}
    summary = {
        "folds": folds,
        "mean": {name: float(values.mean()) for name, values in columns.items()},
        "deviation": {
            name: float(values.std(ddof=1)) if len(values) > 1 else 0.0
            for name, values in columns.items()
        },
        "pooled": _row(concatenate(list(finished.values()))),
        **out_of_fold(folder, finished),
    }
    write_json(folder / "summary.json", summary)
    return summary


def load_folds(folder: Path) -> dict[int, Histograms]:
    """Read the out-of-fold histograms of every finished fold, by fold number.

    Raises:
        InputError: no fold is finished, or a file is damaged or of another fold.
    """
    paths = finished_folds(folder)
    if not paths:
        raise InputError(
            f"looked for {folder}/fold*/oof.npz: no fold of this run is finished; go on training "
            "it first, with --resume true"
        )
    folds = {number: load_histograms(path) for number, path in paths.items()}
    if (folder / "folds.csv").exists():
        table = read_folds(folder / "folds.csv")
        fold_of = dict(zip(table["ImageId"], table["fold"], strict=True))
        for number, histograms in folds.items():
            _check_images(paths[number], number, histograms.ids.tolist(), fold_of)
    return folds


def _check_images(path: Path, number: int, ids: list[str], fold_of: dict[str, int]) -> None:
    """Refuse the predictions of another fold, whose images would count twice."""
    other = next((name for name in ids if fold_of.get(name, number) != number), None)
    if other is not None:
        raise InputError(
            f"{path} holds predictions of fold {fold_of[other]} (image {other}), but lies where "
            f"those of fold {number} belong. Put the right file there, or remove it and resume "
            "with --resume true"
        )


def _row(histograms: Histograms) -> dict:
    rule = best_pair(histograms)
    return {
        "images": len(histograms.ids),
        "positives": int(histograms.positive.sum()),
        **asdict(rule),
        **asdict(score(histograms, rule)),
    }


def format_table(summary: dict) -> str:
    """Format a summary as a table: one line per fold, then mean, deviation and pooled."""
    heading = ("fold", "images", "positive", "Dice", "all-empty", "positives", "empties kept")
    lines = [[*heading, "masks", "threshold", "min area"]]
    for row in [*summary["folds"], {"fold": "pooled", **summary["pooled"]}]:
        rule = (row["predicted"], row["threshold"], row["min_area"])
        lines.append([row["fold"], row["images"], row["positives"], *_scores(row), *rule])
    averages = [[n, "", "", *_scores(summary[n]), "", "", ""] for n in ("mean", "deviation")]
    lines[-1:-1] = averages  # before the pooled line
    widths = [max(len(str(line[i])) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(str(cell).rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    )


def _scores(row: dict) -> list[str]:
    return [f"{row[name]:.4f}" for name in _AVERAGED]
