"""What was trained on what, and how well it went: the texts and tables of a report."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.folds import describe_leakage
from utils.config.settings import MAY_CHANGE, Config
from utils.config.stages import build_stages
from utils.evaluation.scoring import Estimate, mean_with_interval
from utils.limits import SETTINGS_BYTES, read_bytes
from utils.postprocessing.rule import NO_MASKS, PostProcess, score_images
from utils.report.curves import FoldCurves
from utils.report.evidence import Evidence

_TOLD_ELSEWHERE = ("seed", "model_type")


class Setting(NamedTuple):
    """A setting that differs from its default."""

    name: str
    value: str
    default: str


class Headline(NamedTuple):
    """The score of a run, beside that of leaving every image empty.

    Attributes:
        dice: mean Dice over all images.
        baseline: that of predicting no mask anywhere.
        gain: the difference, image by image.
        verdict: a sentence about it.
    """

    dice: Estimate
    baseline: float
    gain: Estimate
    verdict: str


class FoldRow(NamedTuple):
    """A line of the table of folds."""

    fold: str
    images: int
    positives: int
    dice: Estimate
    baseline: float
    dice_positive: float
    empty_kept: float
    predicted: int
    rule: str


def changed_settings(config: Config) -> list[Setting]:
    """List the settings that differ from the defaults and influence the networks."""
    defaults = asdict(Config())
    return [
        Setting(name, str(value), str(defaults[name]))
        for name, value in asdict(config).items()
        if value != defaults[name] and name not in (*MAY_CHANGE, *_TOLD_ELSEWHERE)
    ]


def describe_run(evidence: Evidence, curves: dict[int, FoldCurves]) -> list[tuple[str, str]]:
    """Describe network, data, folds, leakage, device and versions: pairs of name and text."""
    config, table, pooled = evidence.config, evidence.table, evidence.pooled
    sizes = {*zip(pooled.width.tolist(), pooled.height.tolist(), strict=True)}
    size = "{}x{}".format(*sizes.pop()) if len(sizes) == 1 else f"{len(sizes)} sizes of image"
    stages = "; ".join(
        f"stage {s.number}: {s.image_size} px, {s.epochs} epochs, batches of {s.batch_size}, "
        f"loss {s.loss}"
        for s in build_stages(config)
    )
    leak = evidence.chosen.not_out_of_fold
    facts = [
        ("Network", config.model_type),
        ("Stages", stages),
        (
            "Data",
            f"{len(table):,} images, {table['positive'].sum():,} with a mask, {size}, from "
            f"{config.dataset_root}",
        ),
        ("Folds", f"{len(evidence.folds)} of {config.n_splits} finished"),
        ("Patients", describe_leakage(table)),
        (
            "Leakage",
            f"NOT OUT OF FOLD, the scores are too high: {leak}"
            if leak
            else "none known: every image is scored by networks that were not trained on it"
            + (", at epochs that were chosen on it" if config.best_by != "last" else ""),
        ),
        ("Seed", str(config.seed)),
    ]
    seconds = sum(fold.seconds for fold in curves.values())
    facts += [("Duration", _duration(seconds))] if seconds else []
    rates = [rate for fold in curves.values() for rate in fold.values["lr"].values()]
    # Its setting may be only the limit that it was drawn below.
    facts += [("Learning rate", f"at most {max(rates):.3g}")] if rates else []
    return facts + _describe_environment(evidence.folder)


def summarise(evidence: Evidence) -> Headline:
    """Return the headline: the Dice of all images by the rules of their folds."""
    patients, dice = evidence.patients, evidence.scores.dice
    baseline, gain = evidence.empty_dice, mean_with_interval(dice - evidence.empty_dice, patients)
    if not evidence.scores.predicted.any():
        verdict = "Every image is left empty."
    elif gain.low > 0:
        verdict = "Better than leaving every image empty, beyond the interval."
    elif gain.high < 0:
        verdict = "Worse than leaving every image empty, beyond the interval."
    else:
        verdict = "Not distinguishable from leaving every image empty."
    return Headline(mean_with_interval(dice, patients), float(baseline.mean()), gain, verdict)


def tabulate_folds(evidence: Evidence) -> list[FoldRow]:
    """Score each fold by its rule, and all of them together."""
    rows = [
        _row(evidence, str(number), evidence.fold_of == number, evidence.scores.rules[number])
        for number in evidence.folds
    ]
    everything = np.ones(len(evidence.fold_of), bool)
    return [*rows, _row(evidence, "all", everything, None)]


def _row(evidence: Evidence, fold: str, inside: np.ndarray, rule: PostProcess | None) -> FoldRow:
    dice, positive = evidence.scores.dice[inside], evidence.pooled.positive[inside]
    scores = score_images(dice, evidence.scores.predicted[inside], positive)
    return FoldRow(
        fold,
        len(dice),
        int(positive.sum()),
        mean_with_interval(dice, evidence.patients[inside]),
        scores.baseline,
        scores.dice_positive,
        scores.empty_kept,
        scores.predicted,
        _describe_rule(rule) if rule else "",
    )


def _describe_rule(rule: PostProcess) -> str:
    return "no masks at all" if rule == NO_MASKS else rule.describe()


def _describe_environment(folder: Path) -> list[tuple[str, str]]:
    try:
        environment = json.loads(read_bytes(folder / "environment.json", SETTINGS_BYTES))
        gpus, packages = environment["gpus"], environment["packages"]
        commit = str(environment["git_commit"] or "unknown")
        dirty = ", with uncommitted changes" if environment["git_dirty"] else ""
        return [
            ("Device", ", ".join(gpus) if gpus else f"CPU, {environment['platform']}"),
            ("Commit", commit[:12] + dirty),
            (
                "Versions",
                f"Python {environment['python']}, "
                + ", ".join(f"{name} {version}" for name, version in packages.items()),
            ),
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return [("Environment", f"{folder}/environment.json cannot be read")]


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} seconds of training"
    hours = f"{minutes // 60} h " if minutes >= 60 else ""
    return f"{hours}{minutes % 60} min of training, all folds together"
