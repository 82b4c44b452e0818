"""Create a run from checkpoints of the original repository or of backboned-unet.

    python -m models.adopt --checkpoint fold0.pth fold1.pth fold2.pth fold3.pth fold4.pth \\
        --run_name old
    python -m models.adopt --checkpoint best.pth --folds 3 --run_name old --image_size_stage2 768
    python -m models.adopt --checkpoint stage1.pth --stage 1 --folds 0 --run_name old1

--checkpoint takes one file for each of --folds, in the same order: plain state dicts, or dicts with
a `state_dict`, with or without the prefix `module.`. They are read with torch's safe loader and
must fit --model_type. All settings of main.py can be given and are saved as the run's config.yaml;
set the image sizes that the networks were trained with.

With --stage 2 (the default), both stages count as finished:

    python predict.py --run checkpoints/unet_resnet34/old --threshold 0.5 --min_area 2048 ...
    python -m models.export --run checkpoints/unet_resnet34/old
    python main.py --run_name old --resume true     validates every fold and chooses thresholds

The last command splits the images into folds itself. Unless these are the folds of the old
training, its scores include images that the networks were trained on. With --stage 1, only stage 1
counts as finished:

    python main.py --run_name old1 --mode train_stage2 --folds 0
"""

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from models import build_model, describe_models
from models.sizes import check_square_sizes
from utils.config.command_line import parse_config
from utils.config.settings import Config
from utils.config.stages import build_stages
from utils.console import print0
from utils.errors import InputError, command
from utils.safe_load import load_file, reason_of
from utils.training.checkpoints import FoldCheckpoints
from utils.training.run_folder import create_run, hold_run, make_folder, open_run


@command
def main(args: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--checkpoint", type=Path, nargs="+", default=[])
    own.add_argument("--stage", type=int, choices=(1, 2), default=2)
    options, rest = own.parse_known_args(args)
    config, given = parse_config(rest, f"{__doc__}\n{describe_models()}")
    folds = _folds(options.checkpoint, config)
    states = {fold: read_weights(path, config) for fold, path in folds.items()}
    is_named = config.run_name is not None
    config, folder = open_run(config, given)
    _check_new(folder)
    folder = make_folder(folder, is_named)
    with hold_run(folder):
        config = create_run(config, given, folder)
    for fold, state in states.items():
        write_checkpoints(folder / f"fold{fold}", fold, state, config, options.stage)
        print0(f"fold {fold}: {folds[fold]}, {len(state)} weights")
    print0(f"run {folder}")
    return 0


def read_weights(path: Path, config: Config) -> dict[str, Tensor]:
    """Read the weights of a complete network from a checkpoint or a state dict.

    Returns:
        The state dict, with the parameter names of the network that `config` describes.

    Raises:
        InputError: the file cannot be read, or its weights do not fit that network.
    """
    content = load_file(path)
    state = content.get("state_dict", content)
    network = build_model(config.model_type, pretrained=False, t=config.t)
    check_square_sizes(
        network,
        ((f"--image_size_stage{stage.number}", stage.image_size) for stage in build_stages(config)),
    )
    try:
        network.load_state_dict({k.removeprefix("module."): v for k, v in state.items()})
    except (AttributeError, RuntimeError, TypeError) as error:
        raise InputError(
            f"{path} has no weights that fit --model_type {config.model_type} ({reason_of(error)})"
            "; set the --model_type that was trained"
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


def _folds(checkpoints: list[Path], config: Config) -> dict[int, Path]:
    numbers = config.fold_numbers()
    if len(numbers) != len(checkpoints):
        raise InputError(
            f"--checkpoint has {len(checkpoints)} files for {len(numbers)} folds (--folds "
            f"{config.folds}, --n_splits {config.n_splits}); set their folds, such as --folds 0,3"
        )
    return dict(zip(numbers, checkpoints, strict=True))


def _check_new(folder: Path) -> None:
    if folder.exists():
        raise InputError(f"{folder} exists already; choose another --run_name")


if __name__ == "__main__":
    sys.exit(main())
