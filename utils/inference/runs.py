"""The trained runs that predict together: their settings, blend weights and checkpoint files."""

import hashlib
import math
import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, get_args

from utils.config.command_line import load_config
from utils.config.layout import (
    OUT_OF_FOLD,
    best_checkpoints,
    checkpoint_path,
    finished_folds,
    is_ambiguous,
)
from utils.config.prediction import PrecisionName, blend_command
from utils.config.settings import Config
from utils.config.stages import gate_stage, mask_stage
from utils.config.tta import TTAName
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


def prediction_precision(asked: PrecisionName, runs: Sequence[WeightedRun]) -> PrecisionName:
    """Return the precision to predict runs with: the one asked for, auto by the runs.

    The thresholds of a run that was trained in 32-true were chosen on predictions in 32-true, which
    every device has. It may lack the precision of any other run.
    """
    is_exact = any(run.config.precision == "32-true" for run in runs)
    return "32-true" if asked == "auto" and is_exact else asked


def device_batch_size(runs: Sequence[WeightedRun], devices: int) -> int:
    """Return the default batch size per device: the smallest of the runs' last stages, divided.

    A stage's batch size counts the images of all devices together.
    """
    return max(1, min(mask_stage(run.config).batch_size for run in runs) // devices)


def results_folder(runs: Sequence[WeightedRun], tta: str | None = None) -> Path:
    """Return the folder of threshold.json: the run's own, or a blend's.

    The folder of a blend is determined by its runs, in any order, their weights, and the --tta that
    they are predicted with. It is in blends/ next to the folders of the networks. A single run that
    is predicted with another --tta than its own counts as a blend.

    Args:
        runs: the runs.
        tta: the --tta; None for that of the runs.
    """
    is_own = _is_own(runs, tta)
    if len(runs) == 1 and is_own:
        return runs[0].folder
    ordered = sorted((run.folder.resolve(), run.weight) for run in runs)
    root = ordered[0][0].parent.parent
    key = [",".join(f"{weight:.6g}" for _, weight in ordered), *([] if is_own else [str(tta)])]
    # Relative paths, so that the folder with all runs can be moved.
    paths = [os.path.relpath(folder, root) for folder, _ in ordered]
    digest = hashlib.sha256("\n".join([*paths, *key]).encode()).hexdigest()[:8]
    title = "_".join(["+".join(folder.name for folder, _ in ordered), *key])
    title = title.encode()[:_NAME_BYTES].decode(errors="ignore")
    return root / "blends" / f"{title}_{digest}"


def find_thresholds(runs: Sequence[WeightedRun], tta: str | None) -> Path:
    """Find the threshold.json to predict runs with.

    It is the one that was chosen with this --tta; else with that of the runs; else with another.

    Args:
        runs: the runs.
        tta: the --tta that was given; None without.

    Returns:
        The path; where the first of these should be if there is none.

    Raises:
        InputError: no --tta was given, and there are several of the last kind alone.
    """
    wanted, own = (results_folder(runs, name) / "threshold.json" for name in (tta, None))
    others = {results_folder(runs, name) / "threshold.json": name for name in get_args(TTAName)}
    found = [path for path in dict.fromkeys((wanted, own, *others)) if path.exists()]
    if tta is None and own not in found and len(found) > 1:
        names = " and ".join(others[path] for path in found)
        raise InputError(f"there are thresholds for --tta {names}: choose one of these with --tta")
    return found[0] if found else wanted


def threshold_command(runs: Sequence[WeightedRun], tta: str | None = None) -> str:
    """Return the command that chooses the thresholds of a run or a blend.

    Args:
        runs: the runs.
        tta: the --tta; None for that of the runs.
    """
    tta = None if _is_own(runs, tta) else tta
    if len(runs) > 1 or tta is not None:
        weights = [run.weight for run in runs] if len(runs) > 1 else []
        return blend_command([run.folder for run in runs], weights, tta)
    folder = runs[0].folder.resolve()
    words = ["--mode", "choose_threshold", "--run_name", folder.name]
    words += ["--model_type", runs[0].config.model_type] if is_ambiguous(folder) else []
    if folder.parent.parent != Path(Config.model_path).resolve():
        words += ["--model_path", str(folder.parent.parent)]
    return f"python main.py {shlex.join(words)}"


def _is_own(runs: Sequence[WeightedRun], tta: str | None) -> bool:
    return tta is None or all(run.config.tta == tta for run in runs)


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
        InputError: a checkpoint is missing, or all folds are asked for and only some are finished;
            the error names the fold and the flag to skip it.
    """
    _check_finished(folder, config)
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


def _check_finished(folder: Path, config: Config) -> None:
    """Refuse the early networks of unfinished folds beside those of finished ones.

    A run without any finished fold, such as an adopted one, is taken as it is; so are folds that
    were named.
    """
    numbers, finished = config.fold_numbers(), finished_folds(folder)
    complete = [number for number in numbers if number in finished]
    unfinished = [number for number in numbers if number not in finished]
    if config.folds == "all" and complete and unfinished:
        raise InputError(
            f"fold {', '.join(map(str, unfinished))} is not finished: "
            f"{folder}/fold{unfinished[0]}/{OUT_OF_FOLD} does not exist. Train it, or continue "
            f"without it: --folds {','.join(map(str, complete))}. Folds that --folds names are "
            "taken as they are"
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
