"""Train a pneumothorax segmentation network on plain folds, with a randomly drawn learning rate.

    CUDA_VISIBLE_DEVICES=0 python main.py         one GPU
    python main.py                                all GPUs, or the CPU if there is none
    python main.py --config recipes/demo.yaml     with the settings of a recipe
    python main.py --run_name last --resume true  resume the latest run

Reads ./datasets/SIIM_data/train_images and train_mask (written by python -m datasets.prepare).
Writes checkpoints/<model_type>/<run_name>/: config.yaml, environment.json, folds.csv, summary.json,
and for each fold its checkpoints, log.txt, TensorBoard events and oof.npz.
"""

import sys

import numpy as np

from models.names import describe_models
from utils.commands.early import check_training
from utils.config.command_line import parse_config
from utils.config.settings import Config
from utils.console import print0
from utils.errors import command

_MIN_LR = 5e-7


def draw_lr(config: Config) -> float:
    """Draw the learning rate of stage 1 from the seed, once per run: U(0,1) * lr + 5e-7."""
    lr = np.random.default_rng(config.seed).uniform() * config.lr + _MIN_LR
    print0(f"learning rate of stage 1, drawn from the seed: {lr:.4g}")
    return float(lr)


@command
def main(args: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    config, given = parse_config(args, f"{__doc__}\n{describe_models()}")
    check_training(config, given)
    from experiment import run

    return run(config, given, stratified=False, choose_lr=draw_lr)


if __name__ == "__main__":
    sys.exit(main())
