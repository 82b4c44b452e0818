"""The work of python -m models.adopt: make a run of checkpoints that other code has trained."""

from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from models.build import build_model
from models.sizes import check_square_sizes
from utils.config.settings import Config
from utils.config.stages import build_stages
from utils.console import print0
from utils.errors import InputError
from utils.safe_load import load_file, reason_of
from utils.training.checkpoints import FoldCheckpoints
from utils.training.start.run_folder import create_run, hold_run, make_folder, open_run


def adopt(folds: dict[int, Path], last_stage: int, config: Config, given: frozenset[str]) -> None:
    """Create a run from one checkpoint per fold.

    Args:
        folds: the checkpoint of each fold, by number.
        last_stage: the stages up to this one count as finished.
        config: settings of the run.
        given: names of the settings that were given rather than left at their defaults.

    Raises:
        InputError: a checkpoint does not fit the network, or the run exists.
    """
    states = {fold: read_weights(path, config) for fold, path in folds.items()}
    is_named = config.run_name is not None
    config, folder = open_run(config, given)
    _check_new(folder)
    folder = make_folder(folder, is_named)
    with hold_run(folder):
        config = create_run(config, given, folder)
    for fold, state in states.items():
        write_checkpoints(folder / f"fold{fold}", fold, state, config, last_stage)
        print0(f"fold {fold}: {folds[fold]}, {len(state)} weights")
    print0(f"run {folder}")


def read_weights(path: Path, config: Config) -> dict[str, Tensor]:
    """Read the weights of a complete network from a checkpoint or a state dict.

    Returns:
        The state dict, with the parameter names of the network that `config` describes.

    Raises:
        InputError: the file cannot be read, or its weights do not fit that network.
    """
    content = load_file(path)
    state = content.get("state_dict", content)
    network = build_model(
        config.model_type, pretrained=False, t=config.t, presence_head=config.presence_head
    )
    check_square_sizes(
        network,
        ((f"--image_size_stage{stage.number}", stage.image_size) for stage in build_stages(config)),
    )
    try:
        network.load_state_dict({k.removeprefix("module."): v for k, v in state.items()})
    except (AttributeError, RuntimeError, TypeError) as error:
        head = ", and --presence_weight 0 if that had no presence head"
        raise InputError(
            f"{path} has no weights that fit --model_type {config.model_type} ({reason_of(error)})"
            f"; set the --model_type that was trained{head if config.presence_head else ''}"
        ) from error
    return network.state_dict()


def write_checkpoints(
    folder: Path, fold: int, state: dict[str, Tensor], config: Config, last_stage: int
) -> None:
    """Write the checkpoints of a fold, as if its stages up to `last_stage` were finished."""
    folder.mkdir()
    for stage in build_stages(config)[:last_stage]:
        content = {
            "state_dict": state,
            "model_type": config.model_type,
            "stage": stage.number,
            "epoch": stage.epochs - 1,
            "fold": fold,
            "best": {"epoch": stage.epochs - 1},
            "kept": [{"epoch": stage.epochs - 1}],
            "config": asdict(config),
        }
        FoldCheckpoints(folder).save(content)


def _check_new(folder: Path) -> None:
    if folder.exists():
        raise InputError(f"{folder} exists already; choose another --run_name")
