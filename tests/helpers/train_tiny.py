"""Train one fold of a tiny network on N CPU processes.

    python -m tests.helpers.train_tiny ROOT OUT N

A separate command, because a process cannot leave the process group that it joined.
"""

import sys
from pathlib import Path
from unittest.mock import patch

from torch.optim import SGD

import solver as solver_module
from solver_freeze import FreezeSolver
from tests.helpers.tiny import TinyNet, config, fold_and_source
from utils.config.stages import build_stages
from utils.distributed import launch
from utils.inference import ensemble
from utils.training import optim


class FixedNorm(TinyNet):
    """Its batch norm stays in evaluation mode: each process would normalise by its own images."""

    def train(self, mode: bool = True) -> "FixedNorm":
        """Keep the batch norm in evaluation mode."""
        super().train(mode)
        self.encoder[1].eval()
        return self


def main(root: Path, out: Path, processes: int) -> None:
    """Train the fold into `out`."""
    solver_module.build_model = ensemble.build_model = lambda *_, **__: FixedNorm()
    # Adam is invariant to the scale of gradients, so it would hide one that is too small.
    patch.object(optim, "Adam", lambda parameters, lr, **_: SGD(parameters, lr)).start()
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
