"""The choice of a family of rules by cross-fitting, so that small sets get simple rules."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from utils.evaluation.bootstrap import index_groups
from utils.postprocessing.averages import mean_dice
from utils.postprocessing.grid import FAMILIES, Grid, families_for
from utils.postprocessing.histograms import Histograms, concatenate
from utils.postprocessing.rule import PostProcess
from utils.postprocessing.search import best_rules

PIECES = 5
"""Parts that a fold is split into where it is the only one to choose a family on."""
_NO_MASKS = FAMILIES[0].name
UNTESTED = FAMILIES[1].name
"""The family if there are too few images to cross-fit; one of its rules predicts no masks."""

_ROUNDING = 1e-9
"""A family that differs in one image is exactly one standard error away, up to rounding."""

Part = frozenset[int]
"""A set of images: numbers of pieces."""


class FamilyScore(NamedTuple):
    """How a family does on images that its rules were not chosen on.

    Attributes:
        dice: cross-fitted mean Dice.
        standard_error: of the difference between `dice` and that of the best family.
    """

    dice: float
    standard_error: float


class Choice(NamedTuple):
    """A chosen family, and the scores of all; without scores if nothing could be cross-fitted."""

    family: str
    scores: dict[str, FamilyScore]


class Fitted(NamedTuple):
    """What the whole procedure, the choice of a family and of a rule in it, gives.

    Attributes:
        rule: chosen on all images.
        choice: the family of `rule`.
        cross_fitted: by fold number, the rule of the whole procedure on the other folds; None with
            a single fold.
        per_fold: by fold number, the best rule of any family on the fold itself.
    """

    rule: PostProcess
    choice: Choice
    cross_fitted: dict[int, PostProcess] | None
    per_fold: dict[int, PostProcess]


def choose_family(dice: dict[str, np.ndarray], patients: Sequence[str]) -> Choice:
    """Choose the simplest family whose Dice is within one standard error of the best.

    This is the one-standard-error rule of Breiman et al., Classification and Regression Trees
    (1984), section 3.4.3, with two changes.

    The standard error is that of the difference to the best family, image by image, not that of the
    best mean. How hard the images are varies far more than what a part adds, but affects all
    families alike: by the error of the mean, nearly every family would be near the best on a few
    hundred images, even if another one gained on every image.

    A family has to score more than predicting no masks, which is chosen if none does, and is not
    chosen for being near the best. One standard error is a fair price for a parameter, not for
    every mask: the gain of a network is in its few positives, so its error is large, and most
    networks would be silenced on small sets.

    Args:
        dice: [N] cross-fitted Dice of each image by name of the family, simplest first.
        patients: patient of each image; images of a patient vary together. An image with an empty
            name is its own patient.
    """
    means = {name: mean_dice(values) for name, values in dice.items()}
    best = max(means, key=lambda name: means[name])
    scores = {
        name: FamilyScore(means[name], standard_error(dice[best] - values, patients))
        for name, values in dice.items()
    }
    floor = means.get(_NO_MASKS, -math.inf)
    near = [
        name
        for name, (mean, error) in scores.items()
        if mean > floor and means[best] - mean <= error + _ROUNDING
    ]
    return Choice(near[0] if near else _NO_MASKS, scores)


def standard_error(values: np.ndarray, patients: Sequence[str]) -> float:
    """Return the standard error of the mean of [N] values of two or more images.

    Images of a patient count as one draw (the linearised variance of a ratio); if there is only one
    patient, images do.
    """
    count, patient_of = index_groups(_single_if_one(patients))
    sums = np.bincount(patient_of, values - values.mean())
    return float(np.sqrt(count / (count - 1) * np.square(sums).sum()) / len(values))


def fit_rules(
    folds: dict[int, Histograms], patients: Sequence[str], grid: Grid | None = None
) -> Fitted:
    """Choose a family and its rule on all folds, and again for each fold on the other folds.

    The family is chosen by cross-fitting: each fold is scored by the rules of the other folds. A
    single fold, also one that remains when another is left out, is split by patient into `PIECES`
    parts that take the place of folds.

    Args:
        folds: out-of-fold histograms by fold number, after `align_folds`.
        patients: patient of each image, fold after fold; empty if unknown.
        grid: the values to try; None is `Grid()`.
    """
    whole, pieces = concatenate(list(folds.values())), PIECES if len(folds) < 3 else 1
    ends = np.cumsum([len(fold.ids) for fold in folds.values()])
    piece_of = [
        split_by_patient(fold, patients[end - len(fold.ids) : end], pieces)
        for fold, end in zip(folds.values(), ends, strict=True)
    ]
    part_of = np.concatenate([pieces * i + own for i, own in enumerate(piece_of)])
    parts = [frozenset((pieces * i + own).tolist()) for i, own in enumerate(piece_of)]
    rest = [parts[:i] + parts[i + 1 :] for i in range(len(parts))] if len(parts) > 1 else []
    unions = {union for chosen_on in (parts, *rest) for union in _unions(chosen_on)} | {*parts}
    families = families_for(whole)
    rules = best_rules(whole, part_of, unions, families, grid)
    fitting = _Fitting(whole, part_of, patients, rules)
    choice, rule = fitting.choose(parts)
    cross_fitted = [fitting.choose(others)[1] for others in rest]
    per_fold = [rules[part, families[-1].name] for part in parts]
    return Fitted(
        rule,
        choice,
        dict(zip(folds, cross_fitted, strict=True)) if rest else None,
        dict(zip(folds, per_fold, strict=True)),
    )


def split_by_patient(histograms: Histograms, patients: Sequence[str], pieces: int) -> np.ndarray:
    """Split a fold into pieces with about as many patients, and as many with a mask, in each.

    The order of the images makes no difference.

    Args:
        histograms: the images of the fold.
        patients: patient of each image; an image with an empty name is its own patient. If there is
            only one patient, every image is.
        pieces: number of pieces; a fold with fewer patients has fewer.

    Returns:
        [N] int, the piece of each image, from 0.
    """
    ids, positive = histograms.ids.tolist(), histograms.positive.tolist()
    # A patient may have the name of an image.
    names = [(p, "" if p else i) for p, i in zip(_single_if_one(patients), ids, strict=True)]
    with_mask = {name for name, is_positive in zip(names, positive, strict=True) if is_positive}
    order = sorted(set(names), key=lambda name: (name in with_mask, name))
    piece = {name: i % pieces for i, name in enumerate(order)}
    return np.array([piece[name] for name in names])


@dataclass
class _Fitting:
    """The rules of all unions, and the Dice of each image under those that were needed so far."""

    whole: Histograms
    part_of: np.ndarray
    patients: Sequence[str]
    rules: dict[tuple[Part, str], PostProcess]
    _dice: dict[PostProcess, np.ndarray] = field(default_factory=dict)

    def choose(self, folds: Sequence[Part]) -> tuple[Choice, PostProcess]:
        """Choose a family by cross-fitting over `folds`, and its rule on all of them."""
        groups, union = _groups(folds), frozenset[int]().union(*folds)
        if len(groups) == 1:
            return Choice(UNTESTED, {}), self.rules[union, UNTESTED]
        where = [np.isin(self.part_of, list(group)) for group in groups]
        inside, dice = np.any(where, axis=0), {}
        for family in families_for(self.whole):
            fitted = np.zeros(len(inside))
            for group, images in zip(groups, where, strict=True):
                fitted[images] = self._dice_of(self.rules[union - group, family.name])[images]
            dice[family.name] = fitted[inside]
        patients = [patient for patient, is_in in zip(self.patients, inside, strict=True) if is_in]
        choice = choose_family(dice, patients)
        return choice, self.rules[union, choice.family]

    def _dice_of(self, rule: PostProcess) -> np.ndarray:
        if rule not in self._dice:
            self._dice[rule] = rule.dice(self.whole)
        return self._dice[rule]


def _groups(folds: Sequence[Part]) -> list[Part]:
    """Return what to cross-fit over: the folds, or the pieces of a single one."""
    return list(folds) if len(folds) > 1 else [frozenset({piece}) for piece in sorted(folds[0])]


def _unions(folds: Sequence[Part]) -> list[Part]:
    """Return the sets of images that `_Fitting.choose` needs rules for."""
    groups, union = _groups(folds), frozenset[int]().union(*folds)
    return [union, *(union - group for group in groups if union != group)]


def _single_if_one(patients: Sequence[str]) -> Sequence[str]:
    """Make every image its own patient if all are of one: nothing else could be compared."""
    return patients if len(set(patients)) > 1 else [""] * len(patients)
