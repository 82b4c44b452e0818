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
from pathlib import Path

from models.names import describe_models
from utils.commands.early import check_adoption
from utils.config.command_line import parse_config
from utils.config.settings import Config
from utils.errors import InputError, command


@command
def main(args: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--checkpoint", type=Path, nargs="+", default=[])
    own.add_argument("--stage", type=int, choices=(1, 2), default=2)
    options, rest = own.parse_known_args(args)
    config, given = parse_config(rest, f"{__doc__}\n{describe_models()}")
    folds = _folds(options.checkpoint, config)
    check_adoption(folds.values(), config.model_path)
    from utils.commands.adopt import adopt

    adopt(folds, options.stage, config, given)
    return 0


def _folds(checkpoints: list[Path], config: Config) -> dict[int, Path]:
    numbers = config.fold_numbers()
    if len(numbers) != len(checkpoints):
        raise InputError(
            f"--checkpoint has {len(checkpoints)} files for {len(numbers)} folds (--folds "
            f"{config.folds}, --n_splits {config.n_splits}); set their folds, such as --folds 0,3"
        )
    return dict(zip(numbers, checkpoints, strict=True))


if __name__ == "__main__":
    sys.exit(main())
