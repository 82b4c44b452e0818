"""Trains one fold of a tiny network, undisturbed and killed.

    python -m tests.helpers.killed_runs ROOT OUT

A command of its own, as it forks: a process that tests run in has threads. OUT/whole is trained
undisturbed. Each of OUT/step, OUT/validation and OUT/checkpoint is killed there in its third epoch,
the checkpoint with half of it written, and resumed.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from lightning_fabric import Fabric

import solver as solver_module
from solver_freeze import FreezeSolver
from tests.helpers.tiny import TinyNet, config, fold_and_source
from utils.config.stages import build_stages
from utils.inference import ensemble
from utils.training import losses


def in_child(work: Callable[[], None]) -> int:
    """Do work in a fork and return its exit code, or minus the signal that ended it."""
    process = os.fork()
    if process == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def train(root: Path, folder: Path) -> None:
    """Train the fold, or go on with it."""
    torch.set_num_threads(1)
    folder.mkdir(exist_ok=True)
    solver_module.build_model = ensemble.build_model = lambda *_, **__: TinyNet()
    settings = config(root)
    fold, source = fold_and_source(root)
    fabric = Fabric(accelerator="cpu", devices=1)
    stages = build_stages(settings, 1e-2)
    FreezeSolver(fabric, settings, stages, fold, source, folder, prior=0.1).fit()


def kill() -> None:
    """End this process as nothing can prevent."""
    os.kill(os.getpid(), signal.SIGKILL)


def killing(place: str) -> None:
    """Make this process kill itself when it comes to a place in its third epoch."""
    # Each epoch has two batches to train on and two to validate on.
    owner, name, visit = {
        "step": (losses, "_prepare", 10),
        "validation": (losses, "_prepare", 11),
        "checkpoint": (torch, "save", 3),
    }[place]
    real, visits = getattr(owner, name), []

    def visited(*args, **kwargs):
        visits.append(None)
        if len(visits) == visit:
            if place == "checkpoint":
                Path(args[1]).write_bytes(b"PK half a checkpoint")
            kill()
        return real(*args, **kwargs)

    setattr(owner, name, visited)


def main(root: Path, out: Path) -> None:
    """Train, kill and resume."""
    assert in_child(lambda: train(root, out / "whole")) == 0
    for place in ("step", "validation", "checkpoint"):
        folder = out / place
        killed = in_child(lambda place=place, folder=folder: (killing(place), train(root, folder)))
        assert killed == -signal.SIGKILL
        assert not (folder / "oof.npz").exists()
        assert in_child(lambda folder=folder: train(root, folder)) == 0


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
