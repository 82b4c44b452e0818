"""The trained runs that predict together: their settings, blend weights and checkpoint files."""

import hashlib
import math
import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from utils.config.command_line import load_config
from utils.config.layout import best_checkpoints, checkpoint_path
from utils.config.settings import Config
from utils.config.stages import gate_stage, mask_stage
from utils.errors import InputError

_NAME_BYTES = 120


class WeightedRun(NamedTuple):
    """A run and its weight in a blend.

    Attributes:
        folder: the run's folder.
        config: its settings, with the folds to use instead of those trained last.
        weight: above 0; the weights of all runs sum to 1.
    """

    folder: Path
    config: Config
    weight: float


class View(NamedTuple):
    """Preprocessing of a run: side of the square input in pixels, and whether to apply CLAHE."""

    size: int
    clahe: bool


class Checkpoints(NamedTuple):
    """The checkpoint files to predict with.

    Attributes:
        mask: checkpoints of the stage that predicts the masks.
        gate: checkpoints of the stage that is the gate; the same files if one stage does both.
    """

    mask: list[Path]
    gate: list[Path]


def read_runs(
    folders: Sequence[str | Path], weights: str | None, folds: str | int
) -> list[WeightedRun]:
    """Read the settings and weights of runs.

    Args:
        folders: the folders of the runs.
        weights: comma-separated numbers above 0, one per run; None for equal weights.
        folds: all, one (0) or several (0,3).

    Raises:
        InputError: a folder is not a run's, a run lacks a fold, or the weights are invalid.
    """
    shares = _parse_weights(weights, len(folders))
    return [
        WeightedRun(Path(folder), read_run_config(Path(folder), folds), share)
        for folder, share in zip(folders, shares, strict=True)
    ]


def read_run_config(folder: Path, folds: str | int) -> Config:
    """Read the settings of a run, with the folds to use instead of those trained last.

    Raises:
        InputError: the folder is not a run's, or the run lacks a fold.
    """
    if not (folder / "config.yaml").is_file():
        raise InputError(
            f"{folder}: has no config.yaml; --run takes the folder of a run, such as "
            "checkpoints/unet_resnet34/RUN"
        )
    config = replace(load_config(folder / "config.yaml"), folds=folds)
    config.fold_numbers()
    return config


def view_of(config: Config) -> View:
    """Return the preprocessing of a run."""
    return View(mask_stage(config).image_size, config.clahe)


def common_tta(runs: Sequence[WeightedRun]) -> str:
    """Return the --tta of runs, with which each of them chose its thresholds.

    Raises:
        InputError: they have different ones, and a blend predicts all runs with the same.
    """
    found = {run.config.tta for run in runs}
    if len(found) > 1:
        listed = ", ".join(f"{run.folder}: {run.config.tta}" for run in runs)
        raise InputError(f"the runs have different --tta ({listed}); choose one for all with --tta")
    return found.pop()


def device_batch_size(runs: Sequence[WeightedRun], devices: int) -> int:
    """Return the default batch size per device: the smallest of the runs' last stages, divided.

    A stage's batch size counts the images of all devices together.
    """
    return max(1, min(mask_stage(run.config).batch_size for run in runs) // devices)


def results_folder(runs: Sequence[WeightedRun]) -> Path:
    """Return the folder of threshold.json: the run's own, or a blend's.

    The folder of a blend is determined by its runs, in any order, and their weights. It is in
    blends/ next to the folders of the networks.
    """
    if len(runs) == 1:
        return runs[0].folder
    ordered = sorted((run.folder.resolve(), run.weight) for run in runs)
    root = ordered[0][0].parent.parent
    weights = ",".join(f"{weight:.6g}" for _, weight in ordered)
    # Relative paths, so that the folder with all runs can be moved.
    paths = "\n".join(os.path.relpath(folder, root) for folder, _ in ordered)
    digest = hashlib.sha256(f"{paths}\n{weights}".encode()).hexdigest()[:8]
    title = "+".join(folder.name for folder, _ in ordered) + f"_{weights}"
    title = title.encode()[:_NAME_BYTES].decode(errors="ignore")
    return root / "blends" / f"{title}_{digest}"


def blend_command(runs: Sequence[WeightedRun]) -> str:
    """Return the command that chooses the thresholds of a blend."""
    folders = " ".join(f"--run {shlex.quote(str(run.folder))}" for run in runs)
    # All digits, since the name of the results folder depends on the weights.
    weights = ",".join(str(run.weight) for run in runs)
    return f"python -m utils.blend {folders} --weights {weights}"


def fold_checkpoints(folder: Path, config: Config, which: str) -> Checkpoints:
    """List the checkpoint files of one fold, whether or not they exist.

    Args:
        folder: the fold's folder.
        config: the run's settings.
        which: best (all kept epochs of a stage) or last.
    """
    mask, gate = mask_stage(config).number, gate_stage(config).number
    if which == "last":
        masks, gates = (checkpoint_path(folder, stage, "last") for stage in (mask, gate))
        return Checkpoints([masks], [gates])
    return Checkpoints(best_checkpoints(folder, mask), best_checkpoints(folder, gate))


def find_checkpoints(folder: Path, config: Config, which: str) -> Checkpoints:
    """List the checkpoint files of the folds in `config.folds`.

    Args:
        folder: the run's folder.
        config: the run's settings.
        which: best or last.

    Raises:
        InputError: a checkpoint is missing; the error names the fold and the flag to skip it.
    """
    folds = {
        number: fold_checkpoints(folder / f"fold{number}", config, which)
        for number in config.fold_numbers()
    }
    missing = {}
    for number, fold in folds.items():
        absent = [path for path in (*fold.gate, *fold.mask) if not path.exists()]
        if absent:
            missing[number] = absent[0]
    if missing:
        complete = ",".join(str(number) for number in folds if number not in missing)
        raise InputError(
            f"fold {', '.join(map(str, missing))} has no checkpoint: {next(iter(missing.values()))}"
            " does not exist. Train it"
            + (f", or continue without it: --folds {complete}" if complete else "")
        )
    return Checkpoints(
        [path for fold in folds.values() for path in fold.mask],
        [path for fold in folds.values() for path in fold.gate],
    )


def _parse_weights(text: str | None, count: int) -> list[float]:
    words = str(text).split(",") if text is not None else ["1"] * count
    try:
        weights = [float(word) for word in words]
    except ValueError:
        weights = []
    if len(weights) != count or not (min(weights) > 0 and sum(weights) < math.inf):
        raise InputError(
            f"--weights {text}: give one number above 0 per --run, {count} in all, separated by "
            "commas"
        )
    return [weight / sum(weights) for weight in weights]
