"""The names of the files in a run's folder, and finding the runs that a command line names.

Only these exact names are the run's own. Whatever else lies there, such as a copy that a user made,
is never read, averaged or removed.
"""

import glob
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from utils.config.command_line import load_config
from utils.config.settings import Config
from utils.config.stages import mask_stage
from utils.errors import InputError

OUT_OF_FOLD = "oof.npz"
"""The predictions of a fold's validation images, which mark the fold as finished."""

_FOLD = re.compile(r"fold(?P<number>0|[1-9][0-9]*)")
_CHECKPOINT = re.compile(r"stage(?P<stage>[1-9])_(last|best|epoch(?P<epoch>[1-9][0-9]*))\.pth")


class CheckpointName(NamedTuple):
    """The name of a checkpoint in the folder of a fold.

    Attributes:
        stage: number of its stage.
        epoch: from 1; None for the checkpoints of the best and the last epoch.
    """

    stage: int
    epoch: int | None


def fold_number(folder: Path) -> int | None:
    """Return the fold that a folder is named after; None if it is not named after one."""
    found = _FOLD.fullmatch(folder.name)
    return int(found["number"]) if found else None


def fold_folders(run: Path) -> dict[int, Path]:
    """Return the folders of a run's folds by number, ascending."""
    numbers = {path: fold_number(path) for path in run.iterdir()} if run.is_dir() else {}
    folders = {number: path for path, number in numbers.items() if number is not None}
    return dict(sorted(folders.items()))


def finished_folds(run: Path) -> dict[int, Path]:
    """Return the out-of-fold predictions of a run's finished folds by number, ascending."""
    paths = {number: path / OUT_OF_FOLD for number, path in fold_folders(run).items()}
    return {number: path for number, path in paths.items() if path.exists()}


def parse_checkpoint(name: str) -> CheckpointName | None:
    """Return the parts of the name of a checkpoint; None for any other name."""
    found = _CHECKPOINT.fullmatch(name)
    if found is None:
        return None
    epoch = int(found["epoch"]) if found["epoch"] else None
    return CheckpointName(int(found["stage"]), epoch)


def checkpoint_path(fold: Path, stage: int, which: str) -> Path:
    """Return the path of a stage's checkpoint in the folder of a fold; `which` is last or best."""
    return fold / f"stage{stage}_{which}.pth"


def best_checkpoints(fold: Path, stage: int) -> list[Path]:
    """List the checkpoints of a stage's best epochs: several with --keep_best, else one."""
    kept = list(kept_checkpoints(fold, stage).values())
    return kept or [checkpoint_path(fold, stage, "best")]


def kept_checkpoints(fold: Path, stage: int) -> dict[int, Path]:
    """Return the files stageN_epochE.pth of a stage, sorted by name, by epoch (from 0)."""
    return {
        name.epoch - 1: path
        for name, path in list_checkpoints(fold)
        if name.stage == stage and name.epoch is not None
    }


def list_checkpoints(fold: Path) -> list[tuple[CheckpointName, Path]]:
    """Return the checkpoints in the folder of a fold, sorted by file name."""
    paths = sorted(fold.iterdir()) if fold.is_dir() else []
    named = [(parse_checkpoint(path.name), path) for path in paths]
    return [(name, path) for name, path in named if name is not None]


def find_run(config: Config, given: frozenset[str]) -> Path | None:
    """Find the folder of the run with this --run_name.

    Args:
        config: the settings of this call.
        given: names of the settings that were given rather than left at their defaults.

    Returns:
        The folder; None if the run is a new one.

    Raises:
        InputError: several runs have the name, or none does although a run is to be continued.
    """
    folder = _find(config, given)
    if folder is None and (config.resume or config.mode != "train" or config.run_name == "last"):
        raise InputError(
            f"no run {config.run_name!r} under {config.model_path}; "
            f"{_describe_existing(Path(config.model_path))}"
        )
    return folder


def is_ambiguous(run: Path) -> bool:
    """Return whether another network has a run of the same name, so that --run_name needs it."""
    pattern = f"*/{glob.escape(run.name)}/config.yaml"
    return len(list(run.parent.parent.glob(pattern))) > 1


def find_starts(init_from: str | None, folds: Iterable[int]) -> dict[int, Path]:
    """Find the checkpoint that each fold starts from.

    Args:
        init_from: a checkpoint, for every fold; or the folder of a run, of which fold k takes the
            best of fold k's last stage; None for none.
        folds: the folds that have yet to start.

    Returns:
        The checkpoints by fold; empty without `init_from`.

    Raises:
        InputError: there is neither a checkpoint nor a run, or the run lacks a fold.
    """
    numbers = list(folds)
    if init_from is None or not numbers:
        return {}
    path = Path(init_from)
    if path.is_file():
        return dict.fromkeys(numbers, path)
    if not (path / "config.yaml").is_file():
        raise InputError(
            f"--init_from {path}: is neither a checkpoint nor the folder of a run; give one such "
            "as checkpoints/unet_resnet34/RUN, or its fold0/stage2_best.pth"
        )
    stage = mask_stage(load_config(path / "config.yaml")).number
    starts = {n: checkpoint_path(path / f"fold{n}", stage, "best") for n in numbers}
    for number, start in starts.items():
        if not start.exists():
            raise InputError(
                f"--init_from {path}: fold {number} has no network to start from, as {start} does "
                "not exist. Train it, choose other --folds, or name one checkpoint for all folds"
            )
    return starts


def _find(config: Config, given: frozenset[str]) -> Path | None:
    if config.run_name is None:
        return None
    model_type = glob.escape(config.model_type) if "model_type" in given else "*"
    name = "*" if config.run_name == "last" else glob.escape(config.run_name)
    files = sorted(
        Path(config.model_path).glob(f"{model_type}/{name}/config.yaml"),
        key=lambda p: p.stat().st_mtime,
    )
    if len(files) > 1 and name != "*":
        raise InputError(
            f"{len(files)} runs are named {config.run_name}; choose one with --model_type: "
            + ", ".join(file.parent.parent.name for file in files)
        )
    return files[-1].parent if files else None


def _describe_existing(model_path: Path) -> str:
    runs = [str(path.parent.relative_to(model_path)) for path in model_path.glob("*/*/config.yaml")]
    return f"existing runs: {', '.join(sorted(runs))}" if runs else "there are no runs yet"
