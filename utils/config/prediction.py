"""Every setting of a prediction: dataclasses behind the command lines and `--help`."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser

from utils.config.command_line import HelpFormatter
from utils.console import say
from utils.cores import usable_cores
from utils.errors import InputError
from utils.inference.runs import Member, blend_command, results_folder
from utils.postprocessing.rule import PostProcess, load_rule, load_tta

_LIMITS = {
    **dict.fromkeys(("threshold", "top_threshold", "presence_threshold", "min_component_mean"), 1),
    **dict.fromkeys(("min_area", "min_component_area"), math.inf),
}


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Settings of all that predicts with the networks of runs."""

    run: list[str]
    """Folder of the run whose networks predict; several make a blend: --run A --run B."""
    weights: str | None = None
    """How much each run of a blend counts, such as 0.6,0.4; all the same if not given."""
    tta: Literal["none", "hflip"] = "none"
    """hflip averages with the prediction of the mirror image."""
    batch_size: int | None = None
    """Images at once on each device; that of the runs' last stage if not given."""
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


@dataclass(frozen=True, kw_only=True)
class Options(RunOptions):
    """Settings of a prediction of new images."""

    images: list[Path]
    """Images (.dcm, .jpg, .png), or folders of them at any depth."""
    out: str = "submission.csv"
    """The csv to write; scores.csv is written beside it."""
    sample_submission: Path | None = None
    """A csv whose ids are predicted, in its order; other images are passed over."""
    folds: str | int = "all"
    """Folds whose networks are averaged: all, one (0) or several (0,3)."""
    checkpoint: Literal["best", "last"] = "best"
    """Which epochs: the best, all that --keep_best kept; or the last."""
    threshold: float | None = None
    """A pixel above this probability belongs to the mask; as threshold.json says if not given."""
    min_area: int | None = None
    """Pixels above top_threshold that an image with a mask has at least; likewise."""
    top_threshold: float | None = None
    """Likewise; equal to threshold if there is no threshold.json."""
    presence_threshold: float | None = None
    """An image has a mask only if its presence head's probability is above this; likewise, and 0,
    which lets all images pass, if there is no threshold.json."""
    min_component_area: int | None = None
    """Pixels that each component of a mask has at least; likewise, 0 without threshold.json."""
    min_component_mean: float | None = None
    """Mean probability that each component has at least; likewise, 0 without threshold.json."""
    overlays: Path | None = None
    """Folder for pictures of image, mask and probability, and a contact sheet."""
    probabilities: Path | None = None
    """Folder for probability maps, 8-bit PNG at the original size."""
    skip_bad: bool = False
    """Leave out images that cannot be read, instead of writing nothing."""


def parse(args: list[str] | None, description: str) -> Options:
    """Read the command line of predict.py.

    Args:
        args: the words behind the script's name; None takes those of the process.
        description: opens the help.

    Raises:
        InputError: a setting is out of range.
        SystemExit: a flag is unknown or of the wrong type (code 2), or help was asked for.
    """
    parser = open_parser(description)
    # jsonargparse would want a list as [a,b]; a shell gives a b.
    parser.add_argument(
        "--images", nargs="+", type=str, required=True, help=".dcm, .jpg, .png, or folders of them."
    )
    settings = parse_settings(parser, args, Options, skip={"images"})
    return Options(**settings | {"images": [Path(word) for word in settings["images"]]})


def open_parser(description: str, **settings) -> ArgumentParser:
    """Begin a command line that names runs by --run, once or several times."""
    parser = ArgumentParser(
        description=description, formatter_class=HelpFormatter, allow_abbrev=False, **settings
    )
    parser.add_argument(
        "--run",
        action="append",
        type=str,
        required=True,
        help="Folder of the run whose networks predict; several make a blend: --run A --run B.",
    )
    return parser


def parse_settings(
    parser: ArgumentParser,
    args: list[str] | None,
    kind: type[RunOptions],
    skip: Collection[str] = (),
) -> dict:
    """Read the settings of `kind` by name; those of `skip` are in the parser already."""
    parser.add_class_arguments(kind, skip={"run", *skip})
    found = parser.parse_args(args)
    return {setting.name: found[setting.name] for setting in fields(kind)}


def choose_rule(options: Options, members: Sequence[Member]) -> PostProcess:
    """Take the threshold.json of the run or blend, and from the settings what they give.

    Raises:
        InputError: the file is needed and cannot be read, a number is out of range, or there is no
            presence for a threshold.
    """
    given = {n: getattr(options, n) for n in PostProcess.__annotations__}
    given = {name: value for name, value in given.items() if value is not None}
    path = results_folder(members) / "threshold.json"
    if given.keys() == PostProcess.__annotations__.keys():
        rule = PostProcess(**given)
    elif given.keys() >= {"threshold", "min_area"} and not path.exists():
        rule = PostProcess(**{"top_threshold": given["threshold"]} | given)
    else:
        rule = replace(_load_rule(path, members), **given)
        chosen_with = load_tta(path)
        if chosen_with != options.tta:
            say(
                f"note: the thresholds of {path} were chosen with --tta {chosen_with}; here they "
                f"cut what --tta {options.tta} predicts"
            )
    for name, highest in _LIMITS.items():
        value = getattr(rule, name)
        if not isinstance(value, int | float) or not 0 <= value <= highest:
            source = f"--{name}" if name in given else f"{path}: {name}"
            raise InputError(f"{source} {value!r}: must be a number from 0 to {highest}")
    if rule.presence_threshold and not all(member.config.presence_head for member in members):
        raise InputError(
            f"presence_threshold {rule.presence_threshold}: needs networks with a presence head, "
            "and not every --run was trained with --presence_weight above 0; give "
            "--presence_threshold 0"
        )
    return rule


def _load_rule(path: Path, members: Sequence[Member]) -> PostProcess:
    if len(members) > 1 and not path.exists():
        raise InputError(
            f"looked for the thresholds of this blend in {path}; make it with\n"
            f"  {blend_command(members)}\nor give at least --threshold and --min_area"
        )
    return load_rule(path)
