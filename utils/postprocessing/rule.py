"""From probabilities to masks, and what that reaches on images whose truth is known."""

import json
from dataclasses import MISSING, dataclass, fields
from pathlib import Path

import numpy as np

from utils.errors import InputError
from utils.limits import SETTINGS_BYTES, read_bytes
from utils.postprocessing.components import COMPONENT_LEVELS, drop_components, sum_by_image
from utils.postprocessing.histograms import Histograms, dice_of, level_of, threshold_of
from utils.postprocessing.surface import dice_surface, mean_dice

THRESHOLDS = tuple(percent / 100 for percent in range(5, 100, 5))
MIN_AREAS = (0, 256, 512, 1024, 2048, 4096, 8192)


@dataclass(frozen=True)
class PostProcess:
    """The rule that turns probabilities into a mask.

    An image is left empty where fewer than `min_area` pixels exceed `top_threshold`, or where an
    image-level head finds a mask too improbable; otherwise its mask is every pixel above
    `threshold`, less the components that are too small or too improbable. The pixels that exceed
    `top_threshold` are those of the map that decides, which may be another network's.
    Source of the two thresholds: the competition's winning solution
    (github.com/sneddy/pneumothorax-segmentation).

    Attributes:
        threshold: probability from 0 to 1; at 1 no pixel is above it.
        min_area: pixels of the image at its original size.
        top_threshold: probability from 0 to 1; equal to `threshold` for the ordinary pair.
        presence_threshold: probability from 0 to 1 that the head's is above; at 0 all images pass,
            and those without such a probability always do.
        min_component_area: pixels that a component of the mask has at least.
        min_component_mean: probability from 0 to 1 that it has at least in the mean.
    """

    threshold: float
    min_area: int
    top_threshold: float
    presence_threshold: float = 0.0
    min_component_area: int = 0
    min_component_mean: float = 0.0

    @property
    def filters(self) -> bool:
        """Components may be dropped."""
        return self.min_component_area > 0 or self.min_component_mean > 0

    def in_words(self) -> str:
        """Say what the rule does, leaving out what it does not use."""
        text = (
            f"masks above {self.threshold:.3f} where at least {self.min_area} pixels exceed "
            f"{self.top_threshold:.3f}"
        )
        if self.presence_threshold > 0:
            text += f" and the presence of a mask {self.presence_threshold:.3f}"
        least = [f"{self.min_component_area} pixels"] if self.min_component_area > 0 else []
        if self.min_component_mean > 0:
            least.append(f"mean probability {self.min_component_mean:.3f}")
        return text + (f", of components of at least {' and '.join(least)}" if least else "")

    def mask(
        self,
        levels: np.ndarray,
        deciding: np.ndarray | None = None,
        presence: float | None = None,
    ) -> np.ndarray:
        """Turn a map into a mask at its image's original size.

        Args:
            levels: [H,W] uint8, level floor(255 p) of the map that draws the mask.
            deciding: [H,W] uint8, the map that decides whether there is one; None if `levels` does.
            presence: probability of an image-level head that there is one; None without a head.

        Returns:
            [H,W] uint8 mask of 0 and 1.
        """
        deciding = levels if deciding is None else deciding
        area = np.count_nonzero(deciding > level_of(self.top_threshold))
        if area < self.min_area or not self._is_present(presence):
            return np.zeros(levels.shape, dtype=np.uint8)
        mask = self.cut(levels)
        if self.filters:
            mask = drop_components(mask, levels, self.min_component_area, self.min_component_mean)
        return mask

    def cut(self, levels: np.ndarray) -> np.ndarray:
        """Return every pixel above `threshold`, whatever their area; [H,W] uint8 of 0 and 1."""
        return (levels > level_of(self.threshold)).astype(np.uint8)

    def passes(self, histograms: Histograms) -> np.ndarray:
        """[N] bool: the image may have a mask."""
        areas = histograms.gate_areas()[:, level_of(self.top_threshold)]
        return (areas >= self.min_area) & self._is_present(histograms.presence)

    def areas(self, histograms: Histograms) -> np.ndarray:
        """[N] int64: the area of each image's mask in pixels; raises as `drawn` does."""
        return np.where(self.passes(histograms), self.drawn(histograms)[0], 0)

    def dice(self, histograms: Histograms) -> np.ndarray:
        """[N] float64: the Dice of each image; raises as `drawn` does."""
        area, inside = self.drawn(histograms)
        drawn = dice_of(area, inside, histograms.mask.sum(axis=1))
        return np.where(self.passes(histograms), drawn, ~histograms.positive).astype(float)

    def drawn(self, histograms: Histograms) -> tuple[np.ndarray, np.ndarray]:
        """Measure what is drawn on each image if it passes.

        Returns:
            [N] int64 pixels, and [N] int64 of them in the true mask.

        Raises:
            InputError: components are dropped and `histograms` cannot say what that leaves.
        """
        level = level_of(self.threshold)
        if not self.filters:
            return histograms.areas()[:, level], histograms.inside()[:, level]
        if histograms.components is None:
            raise InputError("the out-of-fold histograms have no components to filter")
        if level not in COMPONENT_LEVELS:
            raise InputError(
                f"threshold {self.threshold}: components were measured above "
                f"{', '.join(str(threshold_of(level)) for level in COMPONENT_LEVELS)} only"
            )
        return sum_by_image(
            histograms.components,
            len(histograms.ids),
            level,
            self.min_component_area,
            self.min_component_mean,
        )

    def _is_present(self, presence: float | np.ndarray | None) -> bool | np.ndarray:
        if presence is None or self.presence_threshold == 0:
            return True
        # Files hold float32; what is compared must not depend on whether it came from one.
        return np.asarray(presence, np.float32).astype(float) > self.presence_threshold


LEAVE_EMPTY = PostProcess(threshold=1.0, min_area=0, top_threshold=1.0)
"""The rule that predicts nothing."""


def load_rule(path: str | Path) -> PostProcess:
    """Read the rule of a threshold.json; parts that came later may be absent.

    Raises:
        InputError: the file is missing, is too large, is not JSON, or lacks a part of the rule.
    """
    try:
        content = _read(path)
        parts = [f.name for f in fields(PostProcess) if f.default is MISSING or f.name in content]
        return PostProcess(**{name: content[name] for name in parts})
    except FileNotFoundError as error:
        raise InputError(
            f"looked for the thresholds in {path}; make it with "
            "python main.py --mode choose_threshold --run_name RUN, or give thresholds by flags"
        ) from error
    # RecursionError: thousands of brackets.
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as thresholds: {error!r}") from error


def load_tta(path: str | Path) -> str:
    """Return what the rule of a threshold.json that `load_rule` reads was chosen with."""
    return str(_read(path).get("tta", "none"))


def _read(path: str | Path) -> dict:
    return json.loads(read_bytes(path, SETTINGS_BYTES))


@dataclass(frozen=True)
class Scores:
    """What a rule reaches on a set of images.

    Attributes:
        dice: mean Dice over all images.
        dice_positive: mean Dice over the images with a mask; NaN where there are none.
        empty_kept: share of the empty images that are left empty; NaN where there are none.
        predicted: number of images given a mask.
        baseline: mean Dice of leaving every image empty, which is the share of empty images.
    """

    dice: float
    dice_positive: float
    empty_kept: float
    predicted: int
    baseline: float


def score(histograms: Histograms, rule: PostProcess) -> Scores:
    """Measure what `rule` reaches."""
    return score_images(rule.dice(histograms), rule.areas(histograms) > 0, histograms.positive)


def score_images(dice: np.ndarray, predicted: np.ndarray, positive: np.ndarray) -> Scores:
    """Sum up images.

    Args:
        dice: [N] Dice of each image.
        predicted: [N] bool, the image was given a mask.
        positive: [N] bool, the true mask has a pixel.
    """
    return Scores(
        dice=float(dice.mean()),
        dice_positive=_mean(dice[positive]),
        empty_kept=_mean(~predicted[~positive]),
        predicted=int(predicted.sum()),
        baseline=float((~positive).mean()),
    )


def best_pair(histograms: Histograms) -> PostProcess:
    """Choose (threshold, min_area) on a small grid, for ranking the epochs of a stage.

    The grid holds the rule that leaves every image empty, so the best is never below that baseline.
    Ties go to the threshold nearest 0.5, then to the smaller area.
    """
    areas, dice, positive = histograms.gate_areas(), histograms.dice(), histograms.positive
    best, best_dice = LEAVE_EMPTY, mean_dice(~positive)
    for threshold in sorted(THRESHOLDS, key=lambda t: (abs(t - 0.5), t)):
        level = level_of(threshold)
        surface = dice_surface(areas[:, level], dice[:, [level]], positive, np.array(MIN_AREAS))
        if surface.max() > best_dice:
            best_dice = surface.max()
            best = PostProcess(threshold, MIN_AREAS[surface.argmax()], threshold)
    return best


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")
