"""The names of the files in a run's folder. Only these exact names are the run's own.

Whatever else lies there, such as a copy that a user made, is never read, averaged or removed.
"""

import re
from pathlib import Path
from typing import NamedTuple

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
