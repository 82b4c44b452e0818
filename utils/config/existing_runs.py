"""Finding the runs that a command line names: the one to continue, and those to start from."""

import glob
from collections.abc import Iterable
from pathlib import Path

from utils.config.command_line import load_config
from utils.config.layout import checkpoint_path
from utils.config.settings import Config
from utils.config.stages import mask_stage
from utils.errors import InputError


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
