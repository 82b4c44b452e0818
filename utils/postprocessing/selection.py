"""The choice of a run's thresholds from its oof.npz files: per fold, pooled and cross-fitted."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from datasets.folds import read_folds
from utils.evaluation.bootstrap import bootstrap_interval
from utils.evaluation.image_level import auc_with_interval
from utils.files import write_json
from utils.postprocessing.histograms import Histograms, align_folds, concatenate
from utils.postprocessing.plots import draw_threshold
from utils.postprocessing.rule import PostProcess, score_images
from utils.postprocessing.search import best_rule
from utils.postprocessing.summary import load_folds


@dataclass(frozen=True)
class FoldScores:
    """The images of all folds, each scored by the rule for its fold.

    Attributes:
        rules: rule by fold number.
        dice: [N] Dice of each image, fold after fold.
        predicted: [N] bool, a mask was predicted.
    """

    rules: dict[int, PostProcess]
    dice: np.ndarray
    predicted: np.ndarray


def apply_rules(folds: dict[int, Histograms], rules: dict[int, PostProcess]) -> FoldScores:
    """Score each fold by the rule of the same number."""
    return FoldScores(
        rules,
        np.concatenate([rules[number].dice(folds[number]) for number in folds]),
        np.concatenate([rules[number].areas(folds[number]) > 0 for number in folds]),
    )


def cross_fit(
    folds: dict[int, Histograms], choose: Callable[[Histograms], PostProcess] = best_rule
) -> FoldScores:
    """Score each fold by the rule chosen on the other folds: an unbiased estimate.

    Args:
        folds: out-of-fold histograms of two or more folds, after `align_folds`.
        choose: returns a rule for the images it is called with.
    """
    others = {
        number: concatenate([h for other, h in folds.items() if other != number])
        for number in folds
    }
    return apply_rules(folds, {number: choose(rest) for number, rest in others.items()})


def choose_thresholds(folder: Path, tta: str = "none") -> dict:
    """Search the thresholds of a run; write threshold.json, threshold.png and a TensorBoard image.

    Args:
        folder: the folder of the run or the blend.
        tta: the --tta that its oof.npz files were predicted with.

    Returns:
        The content of threshold.json: the rule chosen on all folds pooled; `tta`; the scores of all
        images, `pooled` by that rule, `per_fold` by the best rule of each fold (as in the original
        repository), and `cross_fitted` by the rule of the other folds (None with a single fold);
        `auc`, the image-level AUC of `Histograms.image_scores`; the rules for each fold.

    Raises:
        InputError: the run has no finished fold.
    """
    folds = load_folds(folder)
    folds = dict(zip(folds, align_folds(list(folds.values())), strict=True))
    pooled = concatenate(list(folds.values()))
    patients = _patients(folder, pooled)
    rule = best_rule(pooled)
    ways = {
        "cross_fitted": cross_fit(folds) if len(folds) > 1 else None,
        "per_fold": apply_rules(folds, {n: best_rule(h) for n, h in folds.items()}),
        "pooled": apply_rules(folds, dict.fromkeys(folds, rule)),
    }
    content = {
        **asdict(rule),
        "tta": tta,
        **{name: way and _scores(way, pooled, patients) for name, way in ways.items()},
        "auc": _auc(pooled, patients),
        "folds": [
            {"fold": n, **{name: asdict(way.rules[n]) for name, way in ways.items() if way}}
            for n in folds
        ],
    }
    write_json(folder / "threshold.json", content)
    picture = draw_threshold(pooled, rule, folder / "threshold.png")
    with SummaryWriter(str(folder)) as events:
        events.add_image("threshold", picture, dataformats="HWC")
    return content


def describe_thresholds(content: dict) -> str:
    """Summarise the result of `choose_thresholds` in a few lines."""
    rule = PostProcess(**{name: content[name] for name in PostProcess.__annotations__})
    lines = [f"thresholds: {rule.describe()}"]
    for name, title in (
        ("cross_fitted", "cross-fitted"),
        ("pooled", "pooled (one rule, scored on the images it was chosen on)"),
        ("per_fold", "per fold (one rule each, scored on the images it was chosen on)"),
    ):
        scores = content[name]
        if scores:
            low, high = scores["interval"]
            lines.append(
                f"{title}: Dice {scores['dice']:.4f} (95 % {low:.4f} to {high:.4f}; all-empty "
                f"{scores['baseline']:.4f}), positives {scores['dice_positive']:.4f}, empties kept "
                f"{scores['empty_kept']:.4f}, {scores['predicted']} masks"
            )
    auc = content["auc"]
    low, high = auc["interval"]
    lines.append(f"image-level: AUC {auc['value']:.4f} (95 % {low:.4f} to {high:.4f})")
    if content["cross_fitted"] is None:
        lines.append("cross-fitted: needs a second fold; the scores above are slightly optimistic")
    return "\n".join(lines)


def _patients(folder: Path, pooled: Histograms) -> list[str]:
    table = read_folds(folder / "folds.csv")
    patient_of = dict(zip(table["ImageId"], table["PatientId"], strict=True))
    return [patient_of.get(name, "") for name in pooled.ids.tolist()]


def _scores(way: FoldScores, pooled: Histograms, patients: list[str]) -> dict:
    scores = score_images(way.dice, way.predicted, pooled.positive)
    return {**asdict(scores), "interval": bootstrap_interval(way.dice, patients)}


def _auc(pooled: Histograms, patients: list[str]) -> dict:
    auc = auc_with_interval(pooled.image_scores(), pooled.positive, patients)
    return {"value": auc.mean, "interval": (auc.low, auc.high)}
