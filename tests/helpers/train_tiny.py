"""Trains one fold of a tiny network on N CPU processes.

    python -m tests.helpers.train_tiny ROOT OUT N

Run as a command of its own, because a process cannot leave the group that it joined.
"""

import sys
from pathlib import Path

from torch.optim import SGD

import solver as solver_module
from solver_freeze import FreezeSolver
from tests.helpers.tiny import TinyNet, config, fold_and_source
from utils.config.stages import build_stages
from utils.distributed import launch
from utils.inference import ensemble
from utils.training import optim


class FixedNorm(TinyNet):
    """Its norm stands still; every process would otherwise normalise by its own images."""

    def train(self, mode: bool = True) -> "FixedNorm":
        """Leave the norm in evaluation mode."""
        super().train(mode)
        self.encoder[1].eval()
        return self


def main(root: Path, out: Path, processes: int) -> None:
    """Write the fold's folder to `out`."""
    solver_module.build_model = ensemble.build_model = lambda *_, **__: FixedNorm()
    # Adam's steps would hide a gradient that is half as long.
    optim.Adam = lambda parameters, lr, **_: SGD(parameters, lr)
    batches = {"batch_size_stage1": 6, "batch_size_stage2": 6}
    settings = config(
        root,
        image_size_stage2=32,
        epoch_stage1=3,
        epoch_stage2=3,
        lr_stage2=0.2,
        ema=0.9,
        **batches,
    )
    fold, source = fold_and_source(root)
    fabric = launch("cpu", processes, 1, "32-true")
    stages = build_stages(settings, 0.5)
    FreezeSolver(fabric, settings, stages, fold, source, out, prior=0.1).fit()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
