"""The rule that turns probabilities into masks, and its scores on images with known truth."""

import json
import math
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path

import numpy as np

from utils.config.tta import parse_tta
from utils.errors import InputError
from utils.evaluation.scoring import dice_score
from utils.limits import SETTINGS_BYTES, read_bytes
from utils.postprocessing.components import COMPONENT_LEVELS, drop_components, filtered_areas
from utils.postprocessing.histograms import Histograms, level_of, lowest_above, threshold_of


@dataclass(frozen=True)
class PostProcess:
    """The rule that turns probabilities into a mask.

    The gate: an image gets no mask if fewer than `min_area` pixels of the gate map exceed
    `top_threshold`, or if its presence probability is too low. Otherwise its mask is every pixel
    above `threshold`, without the components that are too small or too improbable. The gate map is
    the probability map itself, or that of another network. Source of the two thresholds: the
    competition's winning solution (github.com/sneddy/pneumothorax-segmentation).

    Attributes:
        threshold: probability from 0 to 1; no pixel is above 1.
        min_area: pixels at the image's original size.
        top_threshold: probability from 0 to 1; equal to `threshold` for a plain pair.
        presence_threshold: probability from 0 to 1; at 0 every image passes. An image without a
            presence probability always passes.
        min_component_area: minimum number of pixels of each component of the mask.
        min_component_mean: minimum mean probability of each component, from 0 to 1.
    """

    threshold: float
    min_area: int
    top_threshold: float
    presence_threshold: float = 0.0
    min_component_area: int = 0
    min_component_mean: float = 0.0

    @property
    def filters_components(self) -> bool:
        """Whether the component filter is on."""
        return self.min_component_area > 0 or self.min_component_mean > 0

    def describe(self) -> str:
        """Describe the rule in words, without the parameters that are off."""
        text = (
            f"masks above {self.threshold:.3f} (probabilities {_lowest(self.threshold)}) if at "
            f"least {self.min_area} pixels exceed {self.top_threshold:.3f} "
            f"({_lowest(self.top_threshold)})"
        )
        if self.presence_threshold > 0:
            text += f" and the presence exceeds {self.presence_threshold:.3f}"
        minima = [f"{self.min_component_area} pixels"] if self.min_component_area > 0 else []
        if self.min_component_mean > 0:
            minima.append(f"mean probability {self.min_component_mean:.3f}")
        return text + (f", components of at least {' and '.join(minima)}" if minima else "")

    def mask(
        self,
        levels: np.ndarray,
        gate: np.ndarray | None = None,
        presence: float | None = None,
    ) -> np.ndarray:
        """Turn a probability map into a mask, at the image's original size.

        Args:
            levels: [H,W] uint8, level floor(255 p) of the probability map.
            gate: [H,W] uint8, levels of the gate map; None if it is `levels`.
            presence: probability of the presence head; None without one.

        Returns:
            [H,W] uint8 mask of 0 and 1.
        """
        gate = levels if gate is None else gate
        area = np.count_nonzero(gate > level_of(self.top_threshold))
        if area < self.min_area or not self._is_present(presence):
            return np.zeros(levels.shape, dtype=np.uint8)
        mask = self.cut(levels)
        if self.filters_components:
            mask = drop_components(mask, levels, self.min_component_area, self.min_component_mean)
        return mask

    def cut(self, levels: np.ndarray) -> np.ndarray:
        """Return every pixel above `threshold`, [H,W] uint8 of 0 and 1."""
        return (levels > level_of(self.threshold)).astype(np.uint8)

    def passes(self, histograms: Histograms) -> np.ndarray:
        """[N] bool: the image passes the gate, including the presence threshold."""
        areas = histograms.gate_areas()[:, level_of(self.top_threshold)]
        return (areas >= self.min_area) & self._is_present(histograms.presence)

    def areas(self, histograms: Histograms) -> np.ndarray:
        """[N] int64: the area of each image's mask in pixels; raises as `measure_ungated` does."""
        return np.where(self.passes(histograms), self.measure_ungated(histograms)[0], 0)

    def dice(self, histograms: Histograms) -> np.ndarray:
        """[N] float64: the Dice of each image; raises as `measure_ungated` does."""
        area, inside = self.measure_ungated(histograms)
        ungated = dice_score(area, inside, histograms.mask.sum(axis=1))
        # An empty prediction has Dice 1 on an empty image and 0 on a positive.
        return np.where(self.passes(histograms), ungated, ~histograms.positive).astype(float)

    def measure_ungated(self, histograms: Histograms) -> tuple[np.ndarray, np.ndarray]:
        """Measure the mask of each image as if all images passed the gate.

        Returns:
            [N] int64 pixels of the mask, and [N] int64 pixels of it inside the true mask.

        Raises:
            InputError: the component filter is on, and `histograms` has no components or none at
                this threshold.
        """
        level = level_of(self.threshold)
        if not self.filters_components:
            return histograms.areas()[:, level], histograms.inside()[:, level]
        if histograms.components is None:
            raise InputError("the out-of-fold histograms have no components to filter")
        if level not in COMPONENT_LEVELS:
            raise InputError(
                f"threshold {self.threshold}: components are only available at thresholds "
                f"{', '.join(str(threshold_of(level)) for level in COMPONENT_LEVELS)}"
            )
        return filtered_areas(
            histograms.components,
            len(histograms.ids),
            level,
            self.min_component_area,
            self.min_component_mean,
        )

    def _is_present(self, presence: float | np.ndarray | None) -> bool | np.ndarray:
        if presence is None or self.presence_threshold == 0:
            return True
        # oof.npz stores float32, so a fresh prediction must be compared as float32 too.
        return np.asarray(presence, np.float32).astype(float) > self.presence_threshold


def _lowest(threshold: float) -> str:
    lowest = lowest_above(threshold)
    return "above 1: none" if lowest is None else f"from {lowest:.4f}"


NO_MASKS = PostProcess(threshold=1.0, min_area=0, top_threshold=1.0)
"""The rule that predicts no mask anywhere."""


def load_rule(path: str | Path) -> PostProcess:
    """Read the rule of a threshold.json; parameters added in later versions may be absent.

    Raises:
        InputError: the file is missing, too large or not JSON, or a parameter is missing or out of
            range.
    """
    try:
        return parse_rule(_read(path), path)
    except FileNotFoundError as error:
        raise InputError(
            f"looked for the thresholds in {path}; choose them with "
            "python main.py --mode choose_threshold --run_name RUN, or give thresholds as flags"
        ) from error
    # RecursionError: thousands of nested brackets.
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as thresholds: {error!r}") from error


def parse_rule(content: dict, path: str | Path) -> PostProcess:
    """Return the rule in the content of a threshold.json.

    Args:
        content: the content; parameters added in later versions may be absent.
        path: where it is from, for errors.

    Raises:
        InputError: a parameter is out of range.
        KeyError, TypeError: a parameter is missing, or the content is no dict.
    """
    names = [f.name for f in fields(PostProcess) if f.default is MISSING or f.name in content]
    rule = PostProcess(**{name: content[name] for name in names})
    check_ranges(rule, path)
    return rule


def load_tta(path: str | Path) -> str:
    """Return the --tta that the rule of a readable threshold.json was chosen with.

    Raises:
        InputError: it names an unknown one.
    """
    tta = _read(path).get("tta", "none")
    parse_tta(tta, path)
    return tta


def load_folds(path: str | Path) -> set[int]:
    """Return the folds that the rule of a readable threshold.json was chosen on; empty if unknown.

    Files of early versions, and those that a user wrote, do not say.
    """
    rows = _read(path).get("folds")
    return {row["fold"] for row in rows or () if isinstance(row, dict) and "fold" in row}


def check_ranges(rule: PostProcess, path: str | Path) -> None:
    """Refuse a rule of a file with a parameter that is no number, or out of range.

    Raises:
        InputError: there is one.
    """
    for name, value in asdict(rule).items():
        highest = math.inf if name.endswith("_area") else 1
        if type(value) not in (int, float) or not 0 <= value <= highest:
            raise InputError(f"{path}: {name} {value!r}: must be a number from 0 to {highest}")


def _read(path: str | Path) -> dict:
    return json.loads(read_bytes(path, SETTINGS_BYTES))


@dataclass(frozen=True)
class Scores:
    """Scores of a rule on a set of images.

    Attributes:
        dice: mean Dice over all images.
        dice_positive: mean Dice over positives; NaN without any.
        empty_kept: share of empty images without a predicted mask; NaN without any.
        predicted: number of images with a predicted mask.
        baseline: mean Dice of predicting no mask anywhere, which is the share of empty images.
    """

    dice: float
    dice_positive: float
    empty_kept: float
    predicted: int
    baseline: float


def score(histograms: Histograms, rule: PostProcess) -> Scores:
    """Score a rule on a set of images."""
    return score_images(rule.dice(histograms), rule.areas(histograms) > 0, histograms.positive)


def score_images(dice: np.ndarray, predicted: np.ndarray, positive: np.ndarray) -> Scores:
    """Average the scores of single images.

    Args:
        dice: [N] Dice of each image.
        predicted: [N] bool, a mask was predicted.
        positive: [N] bool, the true mask is not empty.
    """
    return Scores(
        dice=float(dice.mean()),
        dice_positive=_mean(dice[positive]),
        empty_kept=_mean(~predicted[~positive]),
        predicted=int(predicted.sum()),
        baseline=float((~positive).mean()),
    )


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")
