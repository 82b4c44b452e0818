"""Train a pneumothorax segmentation network on stratified folds, with a fixed learning rate.

    python train_sfold.py                           all folds, one after the other
    python train_sfold.py --run_name X --folds 0,3  two folds; other machines can train the others
    python train_sfold.py --groups patients.csv     all images of a patient in one fold

Every fold has the same share of positives. Reads and writes the same files as main.py.
"""

import sys

from models.names import describe_models
from utils.commands.early import check_training
from utils.config.command_line import parse_config
from utils.config.settings import Config
from utils.errors import command


def fixed_lr(config: Config) -> float:
    """Return the learning rate of stage 1, which is --lr."""
    return config.lr


@command
def main(args: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    config, given = parse_config(args, f"{__doc__}\n{describe_models()}")
    check_training(config, given)
    from experiment import run

    return run(config, given, stratified=True, choose_lr=fixed_lr)


if __name__ == "__main__":
    sys.exit(main())
