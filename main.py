"""Train a pneumothorax segmentation network on plain folds, at a learning rate drawn at random.

    CUDA_VISIBLE_DEVICES=0 python main.py      one GPU
    python main.py                             all GPUs, or the CPU where there is none
    python main.py --config recipes/demo.yaml  the settings of a recipe
    python main.py --run_name last --resume true

Reads ./datasets/SIIM_data/train_images and train_mask (python -m datasets.prepare fills them).
Writes checkpoints/<model_type>/<run_name>/: config.yaml, environment.json, folds.csv, summary.json,
and for each fold its checkpoints, log.txt, TensorBoard events and oof.npz.
"""

import sys

import numpy as np

from experiment import run
from models import describe_models
from utils.config.command_line import parse
from utils.config.settings import Config
from utils.console import say
from utils.errors import command

_LOWEST_RATE = 5e-7


def draw_rate(config: Config) -> float:
    """Draw stage 1's learning rate, U(0,1) * lr + 5e-7, from the seed: once per run."""
    rate = np.random.default_rng(config.seed).uniform() * config.lr + _LOWEST_RATE
    say(f"learning rate of stage 1, drawn by the seed: {rate:.4g}")
    return float(rate)


@command
def main(args: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    config, given = parse(args, f"{__doc__}\n{describe_models()}")
    return run(config, given, stratified=False, rate_of=draw_rate)


if __name__ == "__main__":
    sys.exit(main())
