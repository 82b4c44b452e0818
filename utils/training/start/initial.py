"""What a new run starts from: the network that --init_from names, and its normalisation."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
from torch import nn

from models.pretrained.normalisation import wanted_by
from models.pretrained.weights import load_network
from utils.config.checks import RECURRENT
from utils.config.normalisation import IMAGENET, Normalisation, parse_normalisation
from utils.config.settings import Config
from utils.console import print0
from utils.errors import InputError
from utils.postprocessing.leakage import describe_leak, find_leak, is_checkpoint
from utils.safe_load import load_file
from utils.training.checkpoints import FoldCheckpoints, load_checkpoint


def new_folds(config: Config, folder: Path) -> list[int]:
    """Return the folds that start with the first epoch of stage 1.

    Args:
        config: which folds are trained, and how.
        folder: the run's folder.
    """
    if config.mode == "train_stage2":
        return []
    folds = {number: FoldCheckpoints(folder / f"fold{number}") for number in config.fold_numbers()}
    return [number for number, fold in folds.items() if not fold.path(1, "last").exists()]


def set_normalisation(config: Config, starts: dict[int, Path]) -> Config:
    """Decide what the images of a new run are normalised with, unless its settings say so.

    Args:
        config: settings of the new run.
        starts: what `layout.find_starts` returned.

    Returns:
        The settings, with `input_mean` and `input_std`: those that the network to start from was
        trained with, or the one whose encoder is taken; else what the encoder's pretrained weights
        want, which is a guess for a file of weights alone, and is said; from scratch, ImageNet's.

    Raises:
        InputError: a checkpoint cannot be read.
    """
    wanted, is_guess = _find_normalisation(config, starts)
    if config.input_mean is not None:
        if not is_guess and wanted not in (None, config.normalisation):
            print0(
                f"warning: the weights to start from want {wanted}, and this run uses "
                f"{config.normalisation}"
            )
        return config
    if is_guess:
        print0(
            f"{config.encoder_weights} does not say how its images were normalised; assumed: "
            f"{wanted}; give --input_mean and --input_std if it was trained with others"
        )
    elif wanted not in (None, IMAGENET):
        print0(f"images are normalised as the weights to start from want it: {wanted}")
    mean, std = (wanted or IMAGENET).as_text()
    return replace(config, input_mean=mean, input_std=std)


def check_start(network: nn.Module, path: Path, config: Config) -> None:
    """Load a trained network like `load_start`, and print what will be new to it.

    Raises:
        InputError: see `load_start`.
    """
    content, new_head = _load(network, path, config)
    clahe = content["config"].get("clahe", config.clahe)
    if new_head:
        print0(f"{path} has no presence head: the head starts from scratch")
    if clahe != config.clahe:
        was, uses = (str(value).lower() for value in (clahe, config.clahe))
        print0(f"warning: {path} was trained with --clahe {was}, and this run uses {uses}")


def load_start(network: nn.Module, path: Path, config: Config) -> dict:
    """Load a trained network, whole, into one that is to be trained further.

    Its weights are those that were validated: with --ema, the average. Only a presence head may be
    new.

    Args:
        network: the network to load it into.
        path: the checkpoint.
        config: settings of the new run.

    Returns:
        The content of the checkpoint.

    Raises:
        InputError: the file is no checkpoint of a fold, or is one of another network, or of another
            fold or stage than its folder and its name say.
    """
    return _load(network, path, config)[0]


def find_start_leak(init_from: str, starts: dict[int, Path], table: pd.DataFrame) -> dict | None:
    """Find the validation images that the network given as --init_from was trained on.

    Args:
        init_from: see `layout.find_starts`.
        starts: what `find_starts` returned; not empty.
        table: the content of folds.csv of the run to train.

    Returns:
        What `leakage.find_leak` returns for a checkpoint; None for a run.

    Raises:
        InputError: a fold of a run was, or may have been, trained on images that the same fold is
            to be validated on.
    """
    if Path(init_from).is_file():
        return find_leak(init_from, table, "init_from")
    for number, start in starts.items():
        leak = find_leak(start, table, "init_from", [number])
        if leak is not None:
            raise InputError(
                f"--init_from {init_from}: fold {number} cannot start from fold {number} of that "
                f"run: {describe_leak(leak)}. Use the folds of that run (the same images, script, "
                f"--n_splits, --groups and --exclude), or name one checkpoint, such as {start}: "
                "scores that are not out of fold are then marked"
            )
    return None


def _load(network: nn.Module, path: Path, config: Config) -> tuple[dict, bool]:
    content = load_checkpoint(path)
    if not is_checkpoint(content) or not isinstance(content.get("state_dict"), dict):
        raise InputError(
            f"--init_from {path}: is no checkpoint of this repository. Turn weights of other "
            "origin into a run with python -m models.adopt, or give --encoder_weights"
        )
    _check_settings(content["config"], path, config)
    return content, load_network(network, content["state_dict"], path)


def _find_normalisation(
    config: Config, starts: dict[int, Path]
) -> tuple[Normalisation | None, bool]:
    """Return what the weights to start from want, None from scratch; and whether it is a guess."""
    path = next(iter(starts.values()), config.encoder_weights)
    content = {} if path is None else load_file(path)
    if is_checkpoint(content):
        saved = content["config"]
        return parse_normalisation(saved.get("input_mean"), saved.get("input_std")), False
    if config.pretrained or config.encoder_weights is not None:
        return wanted_by(config.model_type), config.encoder_weights is not None
    return None, False


def _check_settings(saved: dict, path: Path, config: Config) -> None:
    """Refuse a checkpoint of another network."""
    names = ["model_type"] + (["t"] if config.model_type in RECURRENT else [])
    differing = [name for name in names if saved.get(name) != getattr(config, name)]
    if saved.get("presence_weight") and not config.presence_head:
        differing.append("presence_weight")
    if differing:
        changes = "; ".join(f"{n} {saved.get(n)} -> {getattr(config, n)}" for n in differing)
        flags = " ".join(f"--{name} {saved.get(name)}" for name in differing)
        raise InputError(
            f"--init_from {path}: is a network of other settings: {changes}. Give {flags}, or "
            "choose another checkpoint"
        )
