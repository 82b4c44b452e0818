"""The folder of a run: created once, found again by name."""

import glob
import importlib.metadata
import platform
import secrets
import subprocess
import time
from dataclasses import fields, replace
from pathlib import Path

import torch

from utils.config.checks import check_settings
from utils.config.command_line import load_config
from utils.config.settings import Config
from utils.console import print0
from utils.errors import InputError
from utils.files import write_json
from utils.training.checkpoints import FoldCheckpoints

_PACKAGES = (
    "torch",
    "torchvision",
    "lightning-fabric",
    "segmentation-models-pytorch",
    "timm",
    "albumentations",
    "opencv-python-headless",
    "numpy",
    "scikit-learn",
    "pydicom",
)
_MAY_CHANGE = frozenset(
    {"folds", "mode", "resume", "run_name", "num_workers", "model_path", "dataset_root"}
    | {"accelerator", "devices", "num_nodes", "cache", "cache_dir", "exclude"}
)
"""Settings that may differ when a run is resumed; the folds must still be those of folds.csv."""
_BATCH_SIZES = {"batch_size_stage1": 1, "batch_size_stage2": 2}
"""Settings that may change as long as no unfinished fold has started the stage."""


def open_run(config: Config, given: frozenset[str]) -> tuple[Config, Path]:
    """Determine settings and folder of a new run, or of the one that --run_name names.

    Nothing is written; `create_run` does that once the data has been found.

    1. A run that exists keeps the settings of its config.yaml. A given setting that differs is
       refused, unless it cannot change the result, or is the batch size of a stage that no
       unfinished fold has started.
    2. A run that does not exist is new, unless it should be resumed. Its name defaults to the
       current time, its seed is drawn if none is given.

    Args:
        config: the settings of this call.
        given: names of the settings that were given rather than left at their defaults.

    Returns:
        The settings of the run, with a seed and a name, and its folder.

    Raises:
        InputError: the run to resume does not exist, or was started with other settings.
    """
    folder = _find(config, given)
    if folder is not None:
        return _continue(config, given, folder), folder
    if config.resume or config.mode != "train" or config.run_name == "last":
        raise InputError(
            f"no run {config.run_name!r} under {config.model_path}; "
            f"{_known(Path(config.model_path))}"
        )
    name = config.run_name or time.strftime("%Y-%m-%d_%H-%M-%S")
    seed = secrets.randbelow(2**31) if config.seed is None else config.seed
    folder = Path(config.model_path) / config.model_type / name
    return replace(config, run_name=name, seed=seed), folder


def create_run(config: Config, given: frozenset[str], folder: Path) -> Config:
    """Create the folder of a new run, with config.yaml and environment.json.

    In a run that exists, changed batch sizes are saved.

    Args:
        config: what `open_run` returned.
        given: names of the settings that were given rather than left at their defaults.
        folder: of the run.

    Returns:
        The settings to train with: another process's if it created the same run in the meantime.

    Raises:
        InputError: that process created it with other settings.
    """
    path = folder / "config.yaml"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            config.save(path, replace=False)
        except FileExistsError:
            return _continue(config, given, folder)
        write_json(folder / "environment.json", describe_environment())
        return config
    begun = load_config(path)
    now = replace(begun, **{name: getattr(config, name) for name in _BATCH_SIZES})
    if now != begun:
        now.save(path)
    return config


def _find(config: Config, given: frozenset[str]) -> Path | None:
    if config.run_name is None:
        return None
    kind = glob.escape(config.model_type) if "model_type" in given else "*"
    name = "*" if config.run_name == "last" else glob.escape(config.run_name)
    files = sorted(
        Path(config.model_path).glob(f"{kind}/{name}/config.yaml"), key=lambda p: p.stat().st_mtime
    )
    if len(files) > 1 and name != "*":
        raise InputError(
            f"{len(files)} runs are named {config.run_name}; choose one with --model_type: "
            + ", ".join(file.parent.parent.name for file in files)
        )
    return files[-1].parent if files else None


def _continue(config: Config, given: frozenset[str], folder: Path) -> Config:
    begun = load_config(folder / "config.yaml")
    asked = {name: getattr(config, name) for name in given}
    asked["run_name"] = begun.run_name
    differing = {name: value for name, value in asked.items() if getattr(begun, name) != value}
    started = _started_stages(folder, replace(begun, folds=config.folds).fold_numbers())
    free = _MAY_CHANGE | {name for name, stage in _BATCH_SIZES.items() if stage not in started}
    refused = [field.name for field in fields(Config) if field.name in differing.keys() - free]
    if refused:
        changes = "; ".join(f"{n} {getattr(begun, n)} -> {differing[n]}" for n in refused)
        raise InputError(
            f"run {folder} was started with other settings: {changes}. Leave them out to continue "
            "it, or choose another --run_name"
        )
    changed = sorted(differing.keys() - {"folds", "mode", "resume", "run_name"})
    for name in changed:
        print0(f"run {folder.name}: {name} is now {differing[name]}, was {getattr(begun, name)}")
    # These concern this call only, and are not part of the saved run.
    once = {name: getattr(config, name) for name in ("folds", "mode", "resume")}
    continued = replace(begun, **(once | differing))
    check_settings(continued)
    return continued


def _started_stages(folder: Path, folds: list[int]) -> set[int]:
    unfinished = [folder / f"fold{n}" for n in folds if not (folder / f"fold{n}/oof.npz").exists()]
    return {
        stage
        for stage in _BATCH_SIZES.values()
        for fold in unfinished
        if FoldCheckpoints(fold).path(stage, "last").exists()
    }


def _known(model_path: Path) -> str:
    runs = [str(path.parent.relative_to(model_path)) for path in model_path.glob("*/*/config.yaml")]
    return f"existing runs: {', '.join(sorted(runs))}" if runs else "there are no runs yet"


def describe_environment() -> dict:
    """Return library versions, GPUs, the git commit, and whether the working tree differs."""
    return {
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain")),
    }


def _git(*words: str) -> str | None:
    """Return the output of git, or None outside a checkout or without git."""
    try:
        folder = Path(__file__).parent
        done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
