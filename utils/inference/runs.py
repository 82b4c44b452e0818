"""The runs that predict together: their settings, weights and checkpoints."""

import hashlib
import math
import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from lightning_fabric import Fabric
from torch import nn

from models import build_model
from utils.config.settings import Config, load
from utils.errors import InputError
from utils.inference.ensemble import Blend, Ensemble, View
from utils.training.checkpoints import FoldCheckpoints, load_file, reason_of

_NAME_BYTES = 120


class Checkpoints(NamedTuple):
    """The checkpoints that predict.

    Attributes:
        drawing: of the stage that draws masks.
        deciding: of the stage that decides whether there is one; the same where one stage does
            both.
    """

    drawing: list[Path]
    deciding: list[Path]


class Member(NamedTuple):
    """One run of those that predict together.

    Attributes:
        run: its folder.
        config: its settings, with the folds to use in place of those it trained last.
        weight: its share, above 0; those of all members sum to 1.
    """

    run: Path
    config: Config
    weight: float


def read_members(runs: Sequence[str | Path], weights: str | None, folds: str | int) -> list[Member]:
    """Read the settings of runs, and how much each of them counts.

    Args:
        runs: their folders.
        weights: numbers above 0 with commas, one for each run; None for equal ones.
        folds: all, one (0) or several (0,3).

    Raises:
        InputError: a folder is not that of a run, a run has no such folds, or the weights are
            others.
    """
    shares = _parse_weights(weights, len(runs))
    return [
        Member(Path(run), read_settings(Path(run), folds), share)
        for run, share in zip(runs, shares, strict=True)
    ]


def read_settings(run: Path, folds: str | int) -> Config:
    """Read the settings of a run, with the folds to use in place of those it trained last.

    Raises:
        InputError: the folder is not that of a run, or it has no such folds.
    """
    if not (run / "config.yaml").is_file():
        raise InputError(
            f"{run}: has no config.yaml; --run names the folder of a run, such as "
            "checkpoints/unet_resnet34/RUN"
        )
    return replace(load(run / "config.yaml"), folds=folds)


def view_of(config: Config) -> View:
    """Return how the networks of a run are shown an image."""
    return View(config.drawing_stage.image_size, config.clahe)


def common_batch_size(members: Sequence[Member]) -> int:
    """Return the smallest batch size of the members' last stages, over all devices."""
    return min(member.config.drawing_stage.batch_size for member in members)


def results_folder(members: Sequence[Member]) -> Path:
    """Return the folder of threshold.json: that of a run alone, and a place for every blend.

    The place of a blend follows from its runs, in whatever order, and their weights. It lies in
    blends/ beside the folders of networks.
    """
    if len(members) == 1:
        return members[0].run
    ordered = sorted((member.run.resolve(), member.weight) for member in members)
    root = ordered[0][0].parent.parent
    weights = ",".join(f"{weight:.6g}" for _, weight in ordered)
    # Relative, so that the folder of all runs may move.
    runs = "\n".join(os.path.relpath(run, root) for run, _ in ordered)
    mark = hashlib.sha256(f"{runs}\n{weights}".encode()).hexdigest()[:8]
    title = "+".join(run.name for run, _ in ordered) + f"_{weights}"
    title = title.encode()[:_NAME_BYTES].decode(errors="ignore")
    return root / "blends" / f"{title}_{mark}"


def blend_command(members: Sequence[Member]) -> str:
    """Write the command that makes the thresholds of a blend."""
    runs = " ".join(f"--run {shlex.quote(str(member.run))}" for member in members)
    # Every digit, as the folder's name follows from the weights.
    weights = ",".join(str(member.weight) for member in members)
    return f"python -m utils.blend {runs} --weights {weights}"


def fold_checkpoints(folder: Path, config: Config, which: str) -> Checkpoints:
    """List the checkpoints of one fold, whether or not they are there.

    Args:
        folder: the fold's folder.
        config: the run's settings.
        which: best, all kept epochs of a stage, or last.
    """
    fold = FoldCheckpoints(folder)
    numbers = config.drawing_stage.number, config.deciding_stage.number
    if which == "last":
        return Checkpoints(*([fold.path(number, "last")] for number in numbers))
    return Checkpoints(*(fold.best(number) for number in numbers))


def find_checkpoints(run: Path, config: Config, which: str) -> Checkpoints:
    """List the checkpoints of the folds that `config.folds` names.

    Args:
        run: the run's folder.
        config: the run's settings.
        which: best or last.

    Raises:
        InputError: a fold has none; it is named with what goes on without it.
    """
    folds = {
        number: fold_checkpoints(run / f"fold{number}", config, which)
        for number in config.fold_numbers()
    }
    absent = {
        number: [path for path in (*fold.deciding, *fold.drawing) if not path.exists()]
        for number, fold in folds.items()
    }
    missing = {number: paths[0] for number, paths in absent.items() if paths}
    if missing:
        there = ",".join(str(number) for number in folds if number not in missing)
        raise InputError(
            f"fold {', '.join(map(str, missing))} has no checkpoint: {next(iter(missing.values()))}"
            " is not there. Train it" + (f", or go on without it: --folds {there}" if there else "")
        )
    return Checkpoints(
        *([path for fold in folds.values() for path in fold[part]] for part in range(2))
    )


def load_network(path: Path, config: Config) -> nn.Module:
    """Build a network with the weights of a checkpoint.

    Args:
        path: the checkpoint.
        config: the run's settings, which say what network it is.

    Raises:
        InputError: the file is damaged, is of another network, or its weights do not fit.
    """
    content, model_type = load_file(path), config.model_type
    if content.get("model_type") != model_type:
        raise InputError(
            f"{path} is of model_type {content.get('model_type')!r}, but the run's config.yaml says"
            f" {model_type!r}"
        )
    network = build_model(
        model_type, pretrained=False, t=config.t, presence_head=config.presence_head
    )
    try:
        network.load_state_dict(content["state_dict"])
    except (KeyError, RuntimeError, TypeError) as error:
        raise InputError(
            f"{path} has no weights that fit {model_type}: {reason_of(error)}"
        ) from error
    return network


def open_ensemble(
    fabric: Fabric, config: Config, checkpoints: Checkpoints, mirror: bool
) -> Ensemble:
    """Load the networks of checkpoints onto the device; `mirror` as in `Ensemble`.

    Raises:
        InputError: see `load_network`.
    """
    drawing, deciding = ((load_network(path, config) for path in paths) for paths in checkpoints)
    same = checkpoints.deciding == checkpoints.drawing
    return Ensemble(fabric, drawing, mirror, None if same else deciding)


def open_blend(
    fabric: Fabric, members: Sequence[Member], checkpoints: Sequence[Checkpoints], mirror: bool
) -> Blend:
    """Load the networks of several runs onto the device.

    Args:
        fabric: knows device and precision.
        members: the runs.
        checkpoints: of each of them.
        mirror: predict every image flipped left to right as well.

    Raises:
        InputError: see `load_network`.
    """
    pairs = zip(members, checkpoints, strict=True)
    ensembles = [open_ensemble(fabric, member.config, paths, mirror) for member, paths in pairs]
    views = [view_of(member.config) for member in members]
    return Blend(ensembles, views, [member.weight for member in members])


def _parse_weights(text: str | None, count: int) -> list[float]:
    words = str(text).split(",") if text is not None else ["1"] * count
    try:
        weights = [float(word) for word in words]
    except ValueError:
        weights = []
    if len(weights) != count or not (min(weights) > 0 and sum(weights) < math.inf):
        raise InputError(
            f"--weights {text}: give a number above 0 for each --run, {count} in all, with commas "
            "between them"
        )
    return [weight / sum(weights) for weight in weights]
