"""Scaling recipes to a common image size, data set and amount of work."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from utils.config.command_line import parse_config
from utils.config.settings import Config
from utils.config.stages import Stage, build_stages
from utils.errors import InputError

RECIPES = Path(__file__).parent.parent / "recipes"
_SIZE_STEP = 32
"""Image sizes are rounded to multiples of this, which every network accepts."""
_FULL = 512
"""Image size of the original's first stage; recipes that end below it end below `Bounds.size`."""
_VALIDATION_WORK = 1 / 3
"""Work of a validation image: a forward pass only, a third of a training step."""
_EPOCH_SETTINGS = (
    "epoch_stage1",
    "epoch_stage2",
    "epoch_stage3",
    "epoch_stage2_accumulation",
    "warmup_epochs",
    "restart_epochs",
    "decay_epochs",
)
_MINIMUM = {"restart_epochs": 2}
"""With a restart in every epoch the learning rate would never decay."""


@dataclass(frozen=True)
class Bounds:
    """What all recipes are scaled to.

    Attributes:
        size: final image size, in pixels, of a recipe that ends at 512 pixels or more.
        work: work per fold, in training images of that size.
        batch: images per step.
        train: training images of a fold.
        positives: positives among them.
        valid: validation images of a fold.
        pretrained: start encoders from ImageNet weights, frozen at first where a recipe does so.
    """

    size: int
    work: float
    batch: int
    train: float
    positives: float
    valid: float
    pretrained: bool = False


def read_recipe(name: str) -> Config:
    """Read a recipe, and apply the changes after @ in its name.

    Raises:
        InputError: the recipe or a changed setting does not exist.
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
            raise InputError(f"{name}: {change!r} is not SETTING=VALUE with an existing setting")
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
    validations = sum(map(stage.is_validated, range(stage.epochs)))
    return (sum(images) + validations * validated * _VALIDATION_WORK) * relative


def scale(config: Config, bounds: Bounds) -> Config:
    """Scale sizes, epochs and batch sizes of a recipe to the bounds."""
    largest = max(_FULL, build_stages(config)[-1].image_size)
    sizes = {
        name: max(1, round(getattr(config, name) * bounds.size / largest / _SIZE_STEP)) * _SIZE_STEP
        for name in ("image_size_stage1", "image_size_stage2")
    }
    smaller = replace(config, **sizes)
    factor = bounds.work / sum(work_of(stage, bounds) for stage in build_stages(smaller))

    def scale_epochs(name: str) -> int | None:
        epochs = getattr(config, name)
        return epochs and max(_MINIMUM.get(name, 1), round(epochs * factor))

    changes: dict[str, Any] = {name: scale_epochs(name) for name in _EPOCH_SETTINGS}
    changes |= {"batch_size_stage1": bounds.batch, "batch_size_stage2": bounds.batch}
    changes["epoch_stage1_freeze"] = scale_epochs("epoch_stage1_freeze") if bounds.pretrained else 0
    return replace(smaller, **changes, pretrained=bounds.pretrained)
