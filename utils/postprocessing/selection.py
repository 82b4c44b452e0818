"""The choice of a run's thresholds from its oof.npz files: per fold, pooled and cross-fitted."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from datasets.folds import read_folds
from utils.config.layout import finished_folds
from utils.errors import InputError
from utils.evaluation.bootstrap import bootstrap_interval
from utils.evaluation.image_level import auc_with_interval
from utils.files import write_json
from utils.limits import SETTINGS_BYTES, read_bytes
from utils.postprocessing.events import write_run_events
from utils.postprocessing.families import Fitted, fit_rules
from utils.postprocessing.histograms import Histograms, align_folds, concatenate
from utils.postprocessing.leakage import out_of_fold
from utils.postprocessing.plots import draw_threshold
from utils.postprocessing.rule import PostProcess, check_ranges, load_rule, score_images
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


def _apply(fitted: Fitted, folds: dict[int, Histograms]) -> dict[str, FoldScores | None]:
    return {
        "cross_fitted": apply_rules(folds, fitted.cross_fitted) if fitted.cross_fitted else None,
        "per_fold": apply_rules(folds, fitted.per_fold),
        "pooled": apply_rules(folds, dict.fromkeys(folds, fitted.rule)),
    }


def choose_thresholds(folder: Path, tta: str = "none") -> dict:
    """Search the thresholds of a run; write threshold.json, threshold.png, TensorBoard events.

    Args:
        folder: the folder of the run or the blend.
        tta: the --tta that its oof.npz files were predicted with.

    Returns:
        The content of threshold.json: the rule chosen on all folds pooled; `tta`; `family`, that of
        the rule, and `families`, the scores it was chosen by, see `choose_family`; the scores of
        all images, `pooled` by that rule, `per_fold` by the best rule of any family on each fold
        (as in the original repository), and `cross_fitted` by the family and rule that the same
        procedure chooses on the other folds (None with a single fold); `auc`, the image-level AUC
        of `Histograms.image_scores`; the rules for each fold;
        `out_of_fold`, and the reason if it is false (see `leakage.out_of_fold`).

    Raises:
        InputError: the run has no finished fold.
    """
    folds = load_folds(folder)
    folds = dict(zip(folds, align_folds(list(folds.values())), strict=True))
    pooled = concatenate(list(folds.values()))
    patients = _patients(folder, pooled)
    fitted = fit_rules(folds, patients)
    rule, choice, ways = fitted.rule, fitted.choice, _apply(fitted, folds)
    content = {
        **asdict(rule),
        "tta": tta,
        "family": choice.family,
        "families": {name: score._asdict() for name, score in choice.scores.items()},
        **{name: way and _scores(way, pooled, patients) for name, way in ways.items()},
        "auc": _auc(pooled, patients),
        "folds": [
            {"fold": n, **{name: asdict(way.rules[n]) for name, way in ways.items() if way}}
            for n in folds
        ],
        **out_of_fold(folder, folds),
    }
    write_json(folder / "threshold.json", content)
    picture = draw_threshold(pooled, rule, folder / "threshold.png")
    write_run_events(folder, content, picture)
    return content


@dataclass(frozen=True)
class Chosen:
    """What `choose_thresholds` chose for a run, read from its threshold.json.

    Attributes:
        rule: the rule chosen on all folds pooled.
        rules: by fold number, the rule that was chosen on the other folds; `rule` with one fold.
        is_cross_fitted: whether there were other folds.
        family: that of the rule.
        tta: the --tta that the out-of-fold predictions were made with.
        not_out_of_fold: why the scores are not out of fold; empty if they are.
    """

    rule: PostProcess
    rules: dict[int, PostProcess]
    is_cross_fitted: bool
    family: str
    tta: str
    not_out_of_fold: str


def read_chosen(folder: Path) -> Chosen:
    """Read the threshold.json of a run or a blend.

    Raises:
        InputError: the file is missing, cannot be read, or is for other folds than are finished.
    """
    path = folder / "threshold.json"
    rule, advice = load_rule(path), "choose the thresholds with --mode choose_threshold"
    try:
        content = json.loads(read_bytes(path, SETTINGS_BYTES))
        is_cross_fitted = content["cross_fitted"] is not None
        which = "cross_fitted" if is_cross_fitted else "pooled"
        rules = {row["fold"]: PostProcess(**row[which]) for row in content["folds"]}
        chosen = Chosen(
            rule,
            rules,
            is_cross_fitted,
            content["family"],
            content.get("tta", "none"),
            content.get("not_out_of_fold", ""),
        )
    # RecursionError: thousands of nested brackets.
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} lacks what this version writes ({error!r}): {advice}") from error
    for own in rules.values():
        check_ranges(own, path)
    if rules.keys() != finished_folds(folder).keys():
        raise InputError(f"{path} is for other folds than are finished: {advice}")
    return chosen


def describe_thresholds(content: dict) -> str:
    """Summarise the result of `choose_thresholds` in a few lines."""
    rule = PostProcess(**{name: content[name] for name in PostProcess.__annotations__})
    lines = [f"thresholds: {rule.describe()}", _describe_family(content)]
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
    if math.isnan(content["pooled"]["dice_positive"]):
        lines.append("no image is positive: the scores only count empty images that stay empty")
    if not content["out_of_fold"]:
        lines.append(f"NOT OUT OF FOLD, the scores are too high: {content['not_out_of_fold']}")
    return "\n".join(lines)


def _describe_family(content: dict) -> str:
    scores = content["families"]
    if not scores:
        return f"family: {content['family']}, since one image cannot be cross-fitted"
    values = ", ".join(f"{name} {row['dice']:.4f}" for name, row in scores.items())
    return (
        f"family: {content['family']}, the simplest within one standard error of the best "
        f"cross-fitted Dice ({values})"
    )


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
