"""A recipe brought to a size, a number of images and an amount of work that others share."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from utils.config.command_line import parse_config
from utils.config.settings import Config
from utils.config.stages import Stage, build_stages
from utils.errors import InputError

RECIPES = Path(__file__).parent.parent / "recipes"
_SIZE_STEP = 32
"""Every network of the recipes takes multiples of this many pixels."""
_FULL = 512
"""Pixels of the original's first stage, against which a recipe of smaller images stays smaller."""
_VALIDATED = 1 / 3
"""Work of an image that is validated: a forward pass, where training takes three times as long."""
_STRETCHES = (
    "epoch_stage1",
    "epoch_stage2",
    "epoch_stage3",
    "epoch_stage2_accumulation",
    "warmup_epochs",
    "restart_epochs",
)
_LEAST = {"restart_epochs": 2}
"""A rate that starts anew in every epoch would never fall."""


@dataclass(frozen=True)
class Bounds:
    """What all recipes share.

    Attributes:
        size: side in pixels that a recipe of 512 pixels or more ends at.
        work: of a fold, in training images of that size.
        batch: images per step.
        train: images of a fold to learn from.
        positives: those of them with a mask.
        valid: images of a fold to validate on.
    """

    size: int
    work: float
    batch: int
    train: float
    positives: float
    valid: float


def read_recipe(name: str) -> Config:
    """Read a recipe, and change it by what follows @ in its name.

    Raises:
        InputError: there is no such recipe, or no such setting.
    """
    stem, _, changes = name.partition("@")
    path = RECIPES / f"{stem}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
        raise InputError(f"{name}: there is no {path}; recipes: {known}")
    words = ["--config", str(path)]
    for change in filter(None, changes.split(";")):
        setting, equals, value = change.partition("=")
        if setting not in Config.__annotations__ or not equals:
            raise InputError(f"{name}: {change!r} is not SETTING=VALUE of a setting that exists")
        words += [f"--{setting}", value]
    return parse_config(words, "a recipe")[0]


def work_of(stage: Stage, bounds: Bounds) -> float:
    """Return the work of a stage, in training images of `bounds.size`."""
    shares = [stage.positive_share_at(epoch) for epoch in range(stage.epochs)]
    images = [
        bounds.train if share is None else min(bounds.train, bounds.positives / share)
        for share in shares
    ]
    validated = bounds.valid
    if stage.positives_only:
        images = [bounds.positives] * stage.epochs
        validated *= bounds.positives / bounds.train
    relative = (stage.image_size / bounds.size) ** 2
    return (sum(images) + stage.epochs * validated * _VALIDATED) * relative


def scale(config: Config, bounds: Bounds) -> Config:
    """Bring sizes, epochs and batches of a recipe to those bounds; no encoder is held frozen."""
    largest = max(_FULL, build_stages(config)[-1].image_size)
    sizes = {
        name: max(1, round(getattr(config, name) * bounds.size / largest / _SIZE_STEP)) * _SIZE_STEP
        for name in ("image_size_stage1", "image_size_stage2")
    }
    smaller = replace(config, **sizes)
    whole = sum(work_of(stage, bounds) for stage in build_stages(smaller))
    factor = bounds.work / whole

    def shrink(name: str) -> int | None:
        epochs = getattr(config, name)
        return epochs and max(_LEAST.get(name, 1), round(epochs * factor))

    changes: dict[str, Any] = {name: shrink(name) for name in _STRETCHES}
    changes |= {"batch_size_stage1": bounds.batch, "batch_size_stage2": bounds.batch}
    return replace(smaller, **changes, epoch_stage1_freeze=0, pretrained=False)
