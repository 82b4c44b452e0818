"""Train one fold of a tiny network undisturbed, and killed in each phase and resumed.

    python -m tests.helpers.killed_runs ROOT OUT

A separate command, because it forks and the process of the tests has threads. OUT/undisturbed is
trained without a kill. OUT/step, OUT/validation and OUT/checkpoint are killed in that phase of the
third epoch, the last one with half of a checkpoint written, and resumed.
"""

import os
import signal
import sys
from collections.abc import Callable
from functools import partial
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
    """Run `work` in a fork and return its exit code, or minus the signal that killed it."""
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
    """Train or resume the fold."""
    torch.set_num_threads(1)
    folder.mkdir(exist_ok=True)
    solver_module.build_model = ensemble.build_model = lambda *_, **__: TinyNet()
    settings = config(root)
    fold, source = fold_and_source(root)
    fabric = Fabric(accelerator="cpu", devices=1)
    stages = build_stages(settings, 1e-2)
    FreezeSolver(fabric, settings, stages, fold, source, folder, prior=0.1).fit()


def kill() -> None:
    """Kill this process without any cleanup."""
    os.kill(os.getpid(), signal.SIGKILL)


def patch_to_kill(phase: str) -> None:
    """Patch the training to kill this process in a phase of its third epoch."""
    # Each epoch has two training and two validation batches.
    owner, name, call = {
        "step": (losses, "_prepare", 10),
        "validation": (losses, "_prepare", 11),
        "checkpoint": (torch, "save", 3),
    }[phase]
    real = getattr(owner, name)
    calls: list[None] = []

    def patched(*args, **kwargs):
        calls.append(None)
        if len(calls) == call:
            if phase == "checkpoint":
                Path(args[1]).write_bytes(b"PK half a checkpoint")
            kill()
        return real(*args, **kwargs)

    setattr(owner, name, patched)


def train_until_killed(root: Path, folder: Path, phase: str) -> None:
    """Train the fold until the kill in a phase of its third epoch."""
    patch_to_kill(phase)
    train(root, folder)


def main(root: Path, out: Path) -> None:
    """Train, kill and resume."""
    assert in_child(partial(train, root, out / "undisturbed")) == 0
    for phase in ("step", "validation", "checkpoint"):
        folder = out / phase
        code = in_child(partial(train_until_killed, root, folder, phase))
        assert code == -signal.SIGKILL
        assert not (folder / "oof.npz").exists()
        assert in_child(partial(train, root, folder)) == 0


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
