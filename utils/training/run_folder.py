"""The folder of a run: opened once, found again by name."""

import glob
import secrets
import time
from dataclasses import fields, replace
from pathlib import Path

from utils.config.settings import Config, load
from utils.console import say
from utils.errors import InputError
from utils.files import write_json
from utils.training.checkpoints import FoldCheckpoints
from utils.training.environment import describe_environment

_MAY_CHANGE = frozenset(
    {"folds", "mode", "resume", "run_name", "num_workers", "model_path", "dataset_root"}
    | {"accelerator", "devices", "num_nodes", "cache", "cache_dir", "exclude"}
)
"""Settings that a run may be continued with otherwise than it was begun: whatever they name, the
folds that come of it have to be those of folds.csv."""
_BATCH_SIZES = {"batch_size_stage1": 1, "batch_size_stage2": 2}
"""Settings that may change as long as no unfinished fold has begun the stage."""


def open_run(config: Config, given: frozenset[str]) -> tuple[Config, Path]:
    """Settle the settings and the folder of a new run, or of the one that --run_name names.

    Nothing is written: `begin_run` does that, once the data has been found.

    1. A run that exists keeps the settings of its config.yaml. A setting that was given and differs
       is refused, unless it cannot change what is learned, or is the batch size of a stage that no
       unfinished fold has begun.
    2. A run that does not exist is new, unless it was to be resumed. Its name is the time if none
       was given, and its seed is drawn if none was given.

    Args:
        config: the settings of this call.
        given: names of the settings that were given rather than left at their defaults.

    Returns:
        The settings of the run, with a seed and a name, and its folder.

    Raises:
        InputError: the run to go on with does not exist, or was begun with other settings.
    """
    folder = _find(config, given)
    if folder is not None:
        return _continue(config, given, folder), folder
    if config.resume or config.mode != "train" or config.run_name == "last":
        raise InputError(
            f"no run {config.run_name!r} under {config.model_path}; "
            f"{_known(Path(config.model_path))}"
        )
    config = replace(
        config,
        run_name=config.run_name or time.strftime("%Y-%m-%d_%H-%M-%S"),
        seed=secrets.randbelow(2**31) if config.seed is None else config.seed,
    )
    return config, Path(config.model_path) / config.model_type / config.run_name


def begin_run(config: Config, given: frozenset[str], folder: Path) -> Config:
    """Make the folder of a new run, with config.yaml and environment.json.

    A run that exists remembers the batch sizes it is continued with.

    Args:
        config: what `open_run` returned.
        given: names of the settings that were given rather than left at their defaults.
        folder: of the run.

    Returns:
        The settings to train with: those of another process where it began the same run meanwhile.

    Raises:
        InputError: that process began it with other settings.
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
    begun = load(path)
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
            f"{len(files)} runs are named {config.run_name}; say which with --model_type: "
            + ", ".join(file.parent.parent.name for file in files)
        )
    return files[-1].parent if files else None


def _continue(config: Config, given: frozenset[str], folder: Path) -> Config:
    begun = load(folder / "config.yaml")
    asked = {name: getattr(config, name) for name in given}
    asked["run_name"] = begun.run_name
    differing = {name: value for name, value in asked.items() if getattr(begun, name) != value}
    started = _started_stages(folder, replace(begun, folds=config.folds).fold_numbers())
    free = _MAY_CHANGE | {name for name, stage in _BATCH_SIZES.items() if stage not in started}
    refused = [field.name for field in fields(Config) if field.name in differing.keys() - free]
    if refused:
        changes = "; ".join(f"{n} {getattr(begun, n)} -> {differing[n]}" for n in refused)
        raise InputError(
            f"run {folder} was begun with other settings: {changes}. Leave them out to go on with "
            "it, or choose another --run_name"
        )
    told = sorted(differing.keys() - {"folds", "mode", "resume", "run_name"})
    for name in told:
        say(f"run {folder.name} goes on with {name} {differing[name]}, not {getattr(begun, name)}")
    # What only this call asks for is not remembered by the run.
    once = {name: getattr(config, name) for name in ("folds", "mode", "resume")}
    return replace(begun, **(once | differing))


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
    return f"there are: {', '.join(sorted(runs))}" if runs else "there are none yet"
