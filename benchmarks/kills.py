"""Kills real runs at random moments, resumes them, and compares with a run that nothing stopped.

    python -m benchmarks.kills [--kills 52] [--minutes 20]

A small ResNet34 U-Net is trained through both stages, once undisturbed and once with SIGKILL: in
equal parts in a training step, in a validation, in the writing of a checkpoint, and in the change
from stage 1 to stage 2. In the end all checkpoints, oof.npz and every curve have to be the same,
bit for bit; exit code 1 if they are not.
"""

import argparse
import mmap
import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tqdm import tqdm

from benchmarks.robustness.runs import fold_folder, small_data, start
from solver import Solver
from utils.training.checkpoints import FoldCheckpoints

_IMAGES = 24
_EPOCHS = {"epoch_stage1": "6", "epoch_stage2": "6", "epoch_stage2_accumulation": "2"}
_OTHER, _STAGE = "other", "change of stage"
_PLACES = {
    "step": (Solver, "train"),
    "validation": (Solver, "validate"),
    "checkpoint": (FoldCheckpoints, "save"),
    _STAGE: (Solver, "begin_stage"),
}
_NAMES = (_OTHER, *_PLACES)
_CURVES = ("loss/train", "loss/val", "dice/all", "dice/positive", "dice/empty_kept", "lr")
_LONGEST_WAIT = 0.2
"""Seconds from the beginning of what is to be killed to the kill, at most."""


class Place:
    """Where a run is, told through memory that it shares with the process that kills it."""

    def __init__(self):
        self._memory = mmap.mmap(-1, 1)

    def __str__(self) -> str:
        return _NAMES[self._memory[0]]

    def enter(self, name: str) -> None:
        """Say where the run is now."""
        self._memory[0] = _NAMES.index(name)

    def report(self) -> None:
        """Make this process, which is about to train, say where it is."""
        for name, (owner, method) in _PLACES.items():
            setattr(owner, method, self._reporting(name, getattr(owner, method)))

    def _reporting(self, name, method):
        def reported(*args, **kwargs):
            begins_stage_2 = name != _STAGE or (args[1].number == 2 and args[2] == 0)
            self.enter(name if begins_stage_2 else _OTHER)
            try:
                return method(*args, **kwargs)
            finally:
                self.enter(_OTHER)

        return reported


def kill_in(process: int, target: str, place: Place, rng: random.Random) -> bool:
    """Wait until the run is at the target, a little longer, and kill it there.

    Returns:
        Whether it was killed; a run may end before.
    """
    while os.waitpid(process, os.WNOHANG) == (0, 0):
        if str(place) == target:
            time.sleep(rng.uniform(0, _LONGEST_WAIT))
            if str(place) == target:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
                return True
        time.sleep(0.0005)
    return False


def disturb(folder: Path, kills: int, deadline: float) -> Counter:
    """Train the run called killed; return how often it was killed where."""
    rng, place = random.Random(0), Place()
    done: Counter[str] = Counter()
    each = [name for name in _PLACES if name != _STAGE] * (kills // 8 + 1)
    targets = [*rng.sample(each, len(each)), *[_STAGE] * (kills // 4), *rng.sample(each, len(each))]
    for target in tqdm(targets[:kills], "kills", unit="kill"):
        place.enter(_OTHER)
        resume = "true" if done else "false"
        process = start(folder, "killed", {"resume": resume, **_EPOCHS}, place.report)
        if time.monotonic() > deadline or not kill_in(process, target, place, rng):
            break
        done[target] += 1
    return done


def finish(folder: Path, run_name: str, changes: dict[str, str]) -> None:
    """Train to the end, and make sure that it is reached."""
    process = start(folder, run_name, changes)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if code:
        said = (folder / f"{run_name}.txt").read_text()[-3000:]
        raise SystemExit(f"{said}\nrun {run_name} ended with exit code {code}")


def differences(one: Path, other: Path) -> list[str]:
    """Compare what two runs of a fold left, and name what is not the same."""
    found = []
    for path in sorted(one.glob("*.pth")):
        mine, theirs = (torch.load(folder / path.name) for folder in (one, other))
        found += [
            f"{path.name} {key}"
            for key in mine
            if key != "config" and not _same(mine[key], theirs.get(key))
        ]
    with np.load(one / "oof.npz") as a, np.load(other / "oof.npz") as b:
        found += [f"oof.npz {key}" for key in a if not np.array_equal(a[key], b[key])]
    for curve in _CURVES:
        same = _curve(one, curve) == _curve(other, curve)
        found += [] if same else [f"curve {curve}"]
    return found


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return a == b


def _curve(folder: Path, name: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def main() -> int:
    """Print the kills by kind and what differs; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kills",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=52, help="how many (52)")
    parser.add_argument("--minutes", type=float, default=20, help="kill no longer than this (20)")
    given = parser.parse_args()
    begun = time.monotonic()
    with small_data(_IMAGES) as folder:
        finish(folder, "whole", _EPOCHS)
        undisturbed = time.monotonic() - begun
        done = disturb(folder, given.kills, begun + 60 * given.minutes)
        finish(folder, "killed", {"resume": "true", **_EPOCHS})
        found = differences(fold_folder(folder, "whole"), fold_folder(folder, "killed"))
    kinds = ", ".join(f"{done[name]} in a {name}" for name in _PLACES)
    print(f"{done.total()} kills ({kinds}), as many resumes; the run undisturbed took")
    print(f"{undisturbed:.0f} s, everything {time.monotonic() - begun:.0f} s")
    print("; ".join(found) if found else "no difference: checkpoints, oof.npz, curves")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
