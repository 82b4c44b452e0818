"""Every setting of a prediction: one dataclass behind the command line and `--help`."""

import math
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser

from utils.config import HelpFormatter
from utils.cores import usable_cores
from utils.errors import InputError
from utils.threshold import PostProcess, load_rule


@dataclass(frozen=True)
class Options:
    """Settings of a prediction."""

    run: str
    """Folder of the run whose networks predict."""
    images: list[Path]
    """Images (.dcm, .jpg, .png), or folders of them at any depth."""
    out: str = "submission.csv"
    """The csv to write; scores.csv is written beside it."""
    sample_submission: Path | None = None
    """A csv whose ids are predicted, in its order; other images are passed over."""
    folds: str | int = "all"
    """Folds whose networks are averaged: all, one (0) or several (0,3)."""
    checkpoint: Literal["best", "last"] = "best"
    """Which epoch of the last stage."""
    tta: Literal["none", "hflip"] = "none"
    """hflip averages with the prediction of the mirror image."""
    threshold: float | None = None
    """A pixel above this probability belongs to the mask; the run's threshold.json if not given."""
    min_area: int | None = None
    """Pixels above top_threshold that an image with a mask has at least; likewise."""
    top_threshold: float | None = None
    """Likewise; equal to threshold if there is no threshold.json."""
    overlays: Path | None = None
    """Folder for pictures of image, mask and probability, and a contact sheet."""
    probabilities: Path | None = None
    """Folder for probability maps, 8-bit PNG at the original size."""
    skip_bad: bool = False
    """Leave out images that cannot be read, instead of writing nothing."""
    batch_size: int | None = None
    """Images at once on each device; that of the run's last stage if not given."""
    num_workers: int = field(default_factory=lambda: min(8, usable_cores()))
    """Processes that load images, for each device; 0 loads in the predicting process."""
    accelerator: str = "auto"
    """What to predict on: auto, cpu, cuda or mps."""
    devices: int | str = "auto"
    """How many devices (or CPU processes) share the images; auto takes all that are visible."""
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    """Arithmetic; auto is bfloat16 on a GPU that has it, else float16 on a GPU, else float32."""

    def __post_init__(self):
        for name, least in (("batch_size", 1), ("num_workers", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"--{name} {value}: must be at least {least}")


def parse(args: list[str] | None, description: str) -> Options:
    """Read the command line.

    Args:
        args: the words behind the script's name; None takes those of the process.
        description: opens the help.

    Raises:
        InputError: a setting is out of range.
        SystemExit: a flag is unknown or of the wrong type (code 2), or help was asked for.
    """
    parser = ArgumentParser(
        description=description, formatter_class=HelpFormatter, allow_abbrev=False
    )
    # jsonargparse would want a list as [a,b]; a shell gives a b.
    parser.add_argument(
        "--images", nargs="+", type=str, required=True, help=".dcm, .jpg, .png, or folders of them."
    )
    parser.add_class_arguments(Options, skip={"images"})
    found = parser.parse_args(args)
    settings = {setting.name: found[setting.name] for setting in fields(Options)}
    return Options(**settings | {"images": [Path(word) for word in found.images]})


def choose_rule(options: Options) -> PostProcess:
    """Take the run's threshold.json, and from the settings what they give.

    Raises:
        InputError: the file is needed and cannot be read, or a number is out of range.
    """
    given = {n: getattr(options, n) for n in PostProcess.__annotations__}
    given = {name: value for name, value in given.items() if value is not None}
    path = Path(options.run, "threshold.json")
    if given.keys() == PostProcess.__annotations__.keys():
        rule = PostProcess(**given)
    elif given.keys() == {"threshold", "min_area"} and not path.exists():
        rule = PostProcess(**given, top_threshold=given["threshold"])
    else:
        rule = replace(load_rule(path), **given)
    limits = {"threshold": 1, "min_area": math.inf, "top_threshold": 1}
    for name, highest in limits.items():
        value = getattr(rule, name)
        if not isinstance(value, int | float) or not 0 <= value <= highest:
            source = f"--{name}" if name in given else f"{path}: {name}"
            raise InputError(f"{source} {value!r}: must be a number from 0 to {highest}")
    return rule
