"""The folder of a run: created once, reopened by name."""

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
    | {"accelerator", "devices", "num_nodes", "cache", "cache_dir", "exclude", "allow_empty"}
)
"""Settings that may change when a run is resumed; the split must still match folds.csv."""
_BATCH_SIZES = {"batch_size_stage1": 1, "batch_size_stage2": 2}
"""The stage of each setting that may change until an unfinished fold has started the stage."""


def open_run(config: Config, given: frozenset[str]) -> tuple[Config, Path]:
    """Determine settings and folder of a new run, or of the existing run with this --run_name.

    Nothing is written; `create_run` does that once the data has been found.

    1. An existing run keeps the settings of its config.yaml. A given setting that differs is
       refused, unless it cannot change the result, or is the batch size of a stage that no
       unfinished fold has started.
    2. Otherwise the run is new, unless it was to be resumed. Its name defaults to the current time,
       and its seed is random if none is given.

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
            f"{_describe_existing(Path(config.model_path))}"
        )
    name = config.run_name or time.strftime("%Y-%m-%d_%H-%M-%S")
    seed = secrets.randbelow(2**31) if config.seed is None else config.seed
    folder = Path(config.model_path) / config.model_type / name
    return replace(config, run_name=name, seed=seed), folder


def create_run(config: Config, given: frozenset[str], folder: Path) -> Config:
    """Create the folder of a new run, with config.yaml and environment.json.

    If the run exists, changed batch sizes are saved to its config.yaml.

    Args:
        config: the settings that `open_run` returned.
        given: names of the settings that were given rather than left at their defaults.
        folder: the run's folder.

    Returns:
        The settings to train with: those of another process if it created the run in the meantime.

    Raises:
        InputError: that process created the run with other settings.
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
    saved = load_config(path)
    updated = replace(saved, **{name: getattr(config, name) for name in _BATCH_SIZES})
    if updated != saved:
        updated.save(path)
    return config


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


def _continue(config: Config, given: frozenset[str], folder: Path) -> Config:
    """Return the settings of an existing run, with those that this call may change."""
    saved = load_config(folder / "config.yaml")
    requested = {name: getattr(config, name) for name in given}
    # --run_name last is resolved to the name of the run.
    requested["run_name"] = saved.run_name
    changed = {name: value for name, value in requested.items() if getattr(saved, name) != value}
    started = _started_stages(folder, replace(saved, folds=config.folds).fold_numbers())
    allowed = _MAY_CHANGE | {name for name, stage in _BATCH_SIZES.items() if stage not in started}
    refused = [field.name for field in fields(Config) if field.name in changed.keys() - allowed]
    if refused:
        changes = "; ".join(f"{n} {getattr(saved, n)} -> {changed[n]}" for n in refused)
        raise InputError(
            f"run {folder} was started with other settings: {changes}. Omit these flags to "
            "continue it, or choose another --run_name"
        )
    for name in sorted(changed.keys() - {"folds", "mode", "resume", "run_name"}):
        print0(f"run {folder.name}: {name} changed from {getattr(saved, name)} to {changed[name]}")
    # These apply to this call only, and not to the saved run.
    this_call = {name: getattr(config, name) for name in ("folds", "mode", "resume")}
    continued = replace(saved, **(this_call | changed))
    check_settings(continued)
    return continued


def _started_stages(folder: Path, folds: list[int]) -> set[int]:
    """Return the stages that an unfinished one of the folds has a checkpoint of."""
    unfinished = [folder / f"fold{n}" for n in folds if not (folder / f"fold{n}/oof.npz").exists()]
    return {
        stage
        for stage in _BATCH_SIZES.values()
        for fold in unfinished
        if FoldCheckpoints(fold).path(stage, "last").exists()
    }


def _describe_existing(model_path: Path) -> str:
    runs = [str(path.parent.relative_to(model_path)) for path in model_path.glob("*/*/config.yaml")]
    return f"existing runs: {', '.join(sorted(runs))}" if runs else "there are no runs yet"


def describe_environment() -> dict:
    """Return library versions, GPUs, the git commit, and whether there are uncommitted changes."""
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
        result = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True)
    except OSError:
        return None
    return result.stdout.strip() if result.returncode == 0 else None
