"""The folder of a run: created once, reopened by name; each fold trained by one process."""

import importlib.metadata
import platform
import secrets
import time
from contextlib import AbstractContextManager
from dataclasses import fields, replace
from itertools import count
from pathlib import Path

import torch

from utils.config.checks import check_settings
from utils.config.command_line import load_config
from utils.config.layout import OUT_OF_FOLD, find_run, list_checkpoints
from utils.config.prediction import blend_command
from utils.config.resume_command import resume_command
from utils.config.settings import DEVICES, MAY_CHANGE, Config
from utils.config.software import git
from utils.console import print0
from utils.distributed import resolve_precision
from utils.errors import InputError
from utils.files import OwnedLock, hold_lock, write_json
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
_THIS_CALL = ("folds", "mode", "resume", "model_path")
"""Settings that apply to one call, and not to the saved run."""
_RESOLVED = {
    "precision": "auto",
    "memory_format": "auto",
    "input_mean": None,
    "input_std": None,
    "seed": None,
}
"""Settings that a new run resolves and saves, with the value that asks it to, and therefore is no
request to change them. A run that an earlier version began has auto saved, which stays as it was
then."""
_LAUNCH = ("precision", "memory_format", "accelerator", "devices", "num_nodes", "deterministic")
"""Settings that processes are launched with."""
_BATCH_SIZES = {"batch_size_stage1": 1, "batch_size_stage2": 2}
"""The stage of each setting that a resumed run may change until an unfinished fold has started the
stage."""
_ADVICE = "Make it writable, or choose another folder for runs with --model_path"


def open_run(config: Config, given: frozenset[str]) -> tuple[Config, Path]:
    """Determine settings and folder of a new run, or of the existing run with this --run_name.

    Nothing is written; `make_folder` and `create_run` do that once the data has been found.

    1. An existing run keeps the settings of its config.yaml. A given setting that differs is
       refused, unless it is one of `MAY_CHANGE` or `groups`, or is the batch size of a stage that
       no unfinished fold has started, and the run is resumed.
    2. Otherwise the run is new, unless it was to be resumed. Its name defaults to the current time,
       and its seed is random if none is given.

    Args:
        config: the settings of this call.
        given: names of the settings that were given rather than left at their defaults.

    Returns:
        The settings of the run, with a seed and a name, and its folder.

    Raises:
        InputError: the run to resume does not exist, or was started with other settings; or the
            folds are not those of the run.
    """
    folder = find_run(config, given)
    if folder is not None:
        continued = _continue(config, given, folder)
        _print_changes(_load(folder), continued)
        return continued, folder
    name = config.run_name or time.strftime("%Y-%m-%d_%H-%M-%S")
    seed = secrets.randbelow(2**31) if config.seed is None else config.seed
    folder = Path(config.model_path) / config.model_type / name
    config.fold_numbers()
    return replace(config, run_name=name, seed=seed), folder


def settle_precision(config: Config, given: frozenset[str]) -> Config:
    """Return the settings to launch processes with.

    1. An existing run is launched as it was saved: with its precision, and with its accelerator,
       devices and algorithms, unless this call gives others.
    2. A new run has the precision that suits this device; it will be saved, so that a resume on
       another device computes the same.

    Args:
        config: the settings of this call.
        given: names of the settings that were given rather than left at their defaults.
    """
    try:
        folder = find_run(config, given)
        if folder is not None:
            run = _continue(config, given, folder)
            return replace(config, **{name: getattr(run, name) for name in _LAUNCH})
    except InputError:
        # `open_run` raises it again, where one process speaks for all.
        return config
    return replace(config, precision=resolve_precision(config.precision, config.accelerator))


def check_precision(launched: Config, config: Config, folder: Path) -> None:
    """Refuse to train a run with another precision than its own.

    Args:
        launched: the settings of `settle_precision`.
        config: the settings of the run.
        folder: the run's folder.

    Raises:
        InputError: a process on another device has created the run since.
    """
    mine, saved = (resolve_precision(c.precision, c.accelerator) for c in (launched, config))
    if mine != saved:
        raise InputError(
            f"run {folder} has just been started elsewhere with --precision {saved}, and this "
            f"process with {mine}: run the command again"
        )


def make_folder(folder: Path, is_named: bool) -> Path:
    """Create the folder of a run, if it does not exist.

    Args:
        folder: the folder that `open_run` returned.
        is_named: whether the call named the run. If not, another run of the same second may have
            the folder, and this one gets another.

    Returns:
        The folder.

    Raises:
        InputError: it cannot be created.
    """
    name, numbers = folder.name, count(2)
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=is_named)
        except OSError as error:
            if is_named or not isinstance(error, FileExistsError):
                raise InputError(
                    f"{folder} cannot be created ({error.strerror}). {_ADVICE}"
                ) from error
            folder = folder.with_name(f"{name}_{next(numbers)}")
        else:
            return folder


def hold_run(folder: Path) -> AbstractContextManager[None]:
    """Hold the lock of a run, under which one process at a time decides about it or sums it up.

    Raises:
        InputError: the folder cannot be written to.
    """
    return hold_lock(folder, f"that starts or summarises run {folder.name}", _ADVICE)


def create_run(config: Config, given: frozenset[str], folder: Path) -> Config:
    """Write config.yaml and environment.json of a new run.

    If the run exists, changed batch sizes are saved to its config.yaml. The caller holds the run's
    lock, so that of several processes that start a run together, one decides for all.

    Args:
        config: the settings that `open_run` returned.
        given: names of the settings that were given rather than left at their defaults.
        folder: the run's folder, which must exist.

    Returns:
        The settings to train with: those of another process if it created the run since `open_run`.

    Raises:
        InputError: that process created the run with other settings.
    """
    path = folder / "config.yaml"
    if not path.exists():
        config = replace(config, run_name=folder.name)
        try:
            config.save(path, replace=False)
        except FileExistsError:  # another process, on a file system without locks
            return _continue(config, given, folder)
        write_json(folder / "environment.json", describe_environment())
        return config
    saved = _load(folder)
    config = _continue(config, given, folder)
    updated = replace(saved, **{name: getattr(config, name) for name in _BATCH_SIZES})
    if updated != saved:
        updated.save(path)
    return config


def is_finished(folder: Path) -> bool:
    """Return whether a fold is finished, from its folder."""
    return (folder / OUT_OF_FOLD).exists()


def lock_fold(folder: Path) -> OwnedLock:
    """Return the lock of a fold, which the process that trains the fold holds."""
    return OwnedLock(folder, _ADVICE)


def check_fold(folder: Path, config: Config) -> None:
    """Refuse a fold as `claim_fold` would, unless another process is training it.

    Raises:
        InputError: the fold has checkpoints that training would overwrite, or lacks its stage 1.
    """
    is_idle = is_finished(folder) or not folder.exists()
    if is_idle or lock_fold(folder).owner() is None:
        _check_free(folder, config)


def claim_fold(lock: OwnedLock, folder: Path, config: Config) -> str | None:
    """Take the lock of a fold before training it. A finished one needs none, and may be read-only.

    Returns:
        None if this process holds it now, or the fold is finished; otherwise which process does,
        and since when.

    Raises:
        InputError: the fold has checkpoints that training would overwrite, or lacks its stage 1.
    """
    if is_finished(folder):
        return None
    owner = lock.acquire()
    # Another process may have finished the fold, or begun it and ended, since `check_fold`.
    if owner is None and not is_finished(folder):
        try:
            _check_free(folder, config)
        except InputError:
            lock.release()
            raise
    return owner


def _check_free(folder: Path, config: Config) -> None:
    if config.mode == "train_stage2" and not (folder / "stage1_best.pth").exists():
        raise InputError(
            f"--mode train_stage2 needs {folder}/stage1_best.pth; train stage 1 of this fold with "
            "--mode train"
        )
    first = 2 if config.mode == "train_stage2" else 1
    if not config.resume and any(name.stage >= first for name, _ in list_checkpoints(folder)):
        raise InputError(
            f"{folder} already has checkpoints; choose other --folds or another --run_name, or "
            f"resume with:\n{resume_command(config, folder.parent)}"
        )


def _load(folder: Path) -> Config:
    """Load the settings of a run, with the name of its folder, which may be a copy or renamed."""
    return replace(load_config(folder / "config.yaml"), run_name=folder.name)


def _continue(config: Config, given: frozenset[str], folder: Path) -> Config:
    """Return the settings of an existing run, with those that this call may change."""
    saved = _load(folder)
    requested = {
        name: getattr(config, name)
        for name in given
        if name not in _RESOLVED or getattr(config, name) != _RESOLVED[name]
    }
    # --run_name last is resolved to the name of the run.
    requested["run_name"] = saved.run_name
    changed = {name: value for name, value in requested.items() if getattr(saved, name) != value}
    started = _started_stages(folder, replace(saved, folds=config.folds).fold_numbers())
    # The csv of patients may have moved; `compare_folds` refuses one that makes other folds.
    allowed = MAY_CHANGE | {"groups"}
    if config.resume:
        allowed |= {name for name, stage in _BATCH_SIZES.items() if stage not in started}
    refused = [field.name for field in fields(Config) if field.name in changed.keys() - allowed]
    if refused:
        changes = "; ".join(f"{n} {getattr(saved, n)} -> {changed[n]}" for n in refused)
        raise InputError(
            f"run {folder} was started with other settings: {changes}. Omit these flags to "
            "continue it, or choose another --run_name"
            + (_advise_blend(folder, config.tta) if "tta" in refused else "")
        )
    this_call = {name: getattr(config, name) for name in _THIS_CALL}
    continued = replace(saved, **(this_call | changed))
    check_settings(continued)
    return continued


def _advise_blend(folder: Path, tta: str) -> str:
    command = blend_command([folder], tta=tta)
    return f". A finished run gets thresholds for another --tta from\n  {command}"


def _print_changes(saved: Config, continued: Config) -> None:
    for name in sorted(field.name for field in fields(Config)):
        old, new = getattr(saved, name), getattr(continued, name)
        if old != new and name not in _THIS_CALL:
            note = ", which can change the results a little" if name in DEVICES else ""
            print0(f"run {saved.run_name}: {name} changed from {old} to {new}{note}")


def _started_stages(folder: Path, folds: list[int]) -> set[int]:
    """Return the stages that an unfinished one of the folds has a checkpoint of."""
    unfinished = [folder / f"fold{n}" for n in folds if not is_finished(folder / f"fold{n}")]
    return {
        stage
        for stage in _BATCH_SIZES.values()
        for fold in unfinished
        if FoldCheckpoints(fold).path(stage, "last").exists()
    }


def describe_environment() -> dict:
    """Return library versions, GPUs, the git commit, and whether there are uncommitted changes."""
    return {
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "git_commit": git("rev-parse", "HEAD"),
        "git_dirty": bool(git("status", "--porcelain")),
    }
