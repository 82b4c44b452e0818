"""The choice of a run's thresholds: per fold, pooled, and cross-fitted, from oof.npz alone."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from datasets.splits import read_folds
from utils.bootstrap import interval
from utils.files import write_json
from utils.metric import Histograms, join
from utils.plots import draw_threshold
from utils.summary import load_folds
from utils.threshold import PostProcess, Scores, best_triplet, score, score_images


@dataclass(frozen=True)
class CrossFit:
    """Every fold scored by the rule that the other folds chose.

    Attributes:
        rules: for each fold, the rule chosen without it.
        dice: [N] Dice of every image, fold after fold.
        predicted: [N] bool, the image was given a mask.
    """

    rules: dict[int, PostProcess]
    dice: np.ndarray
    predicted: np.ndarray


def cross_fit(
    folds: dict[int, Histograms], choose: Callable[[Histograms], PostProcess] = best_triplet
) -> CrossFit:
    """Choose on the other folds, score on this one: the honest figure for thresholds.

    Args:
        folds: out-of-fold histograms of at least two folds.
        choose: gives a rule for the images it is shown.
    """
    rules = {
        number: choose(join([h for other, h in folds.items() if other != number]))
        for number in folds
    }
    return CrossFit(
        rules,
        np.concatenate([rules[number].dice(folds[number]) for number in folds]),
        np.concatenate([rules[number].areas(folds[number]) > 0 for number in folds]),
    )


def choose_thresholds(folder: Path) -> dict:
    """Search the thresholds of a run; write threshold.json, threshold.png and the same picture to
    TensorBoard.

    Returns:
        The content of threshold.json: the pooled rule, and its scores; those cross-fitted (None
        with a single fold); and for each fold its own best rule, and the rule of the others.

    Raises:
        InputError: the run has no finished fold.
    """
    folds = load_folds(folder)
    pooled = join(list(folds.values()))
    patients = _patients(folder, pooled)
    rule = best_triplet(pooled)
    fitted = cross_fit(folds) if len(folds) > 1 else None
    content = {
        **asdict(rule),
        "pooled": _with_interval(score(pooled, rule), rule.dice(pooled), patients),
        "cross_fitted": fitted
        and _with_interval(
            score_images(fitted.dice, fitted.predicted, pooled.positive), fitted.dice, patients
        ),
        "folds": [_fold(number, folds[number], fitted) for number in folds],
    }
    write_json(folder / "threshold.json", content)
    picture = draw_threshold(pooled, rule, folder / "threshold.png")
    with SummaryWriter(str(folder)) as events:
        events.add_image("threshold", picture, dataformats="HWC")
    return content


def describe(content: dict) -> str:
    """Say in a few lines what `choose_thresholds` found."""
    lines = [
        f"thresholds: masks above {content['threshold']:.3f} where at least {content['min_area']} "
        f"pixels exceed {content['top_threshold']:.3f}"
    ]
    for name, title in (("cross_fitted", "cross-fitted"), ("pooled", "on the images chosen on")):
        scores = content[name]
        if scores:
            low, high = scores["interval"]
            lines.append(
                f"{title}: Dice {scores['dice']:.4f} (95 % {low:.4f} to {high:.4f}; all-empty "
                f"{scores['baseline']:.4f}), positives {scores['dice_positive']:.4f}, empties kept "
                f"{scores['empty_kept']:.4f}, {scores['predicted']} masks"
            )
    if content["cross_fitted"] is None:
        lines.append("cross-fitted: not with a single fold; train another to get an honest figure")
    return "\n".join(lines)


def _patients(folder: Path, pooled: Histograms) -> list[str]:
    table = read_folds(folder / "folds.csv")
    of_image = dict(zip(table["ImageId"], table["PatientId"], strict=True))
    return [of_image.get(name, "") for name in pooled.ids.tolist()]


def _with_interval(scores: Scores, dice: np.ndarray, patients: list[str]) -> dict:
    return {**asdict(scores), "interval": interval(dice, patients)}


def _fold(number: int, histograms: Histograms, fitted: CrossFit | None) -> dict:
    own = best_triplet(histograms)
    row = {"fold": number, **asdict(own), **asdict(score(histograms, own))}
    if fitted:
        row["rule_of_the_others"] = asdict(fitted.rules[number])
    return row
