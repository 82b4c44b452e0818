"""Kill a real run at random moments, resume it, and compare it with an undisturbed run.

    python -m benchmarks.kills [--kills 52] [--minutes 20]

Trains a small ResNet34 U-Net with the settings of recipes/best.yaml, which has a presence head with
dropout, two stages and two workers. It does so twice: once undisturbed, and once with SIGKILLs,
equally often in a training step, in a validation, while a checkpoint is written, and in the change
from stage 1 to stage 2. At the end all checkpoints, oof.npz and every curve must be bit-identical;
exit code 1 if they are not.
"""

import mmap
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tqdm import tqdm

from benchmarks.robustness.runs import fold_folder, small_data, start
from solver import Solver
from utils.console import open_parser
from utils.training.checkpoints import FoldCheckpoints

_IMAGES = 24
_RECIPE = Path(__file__).parents[1] / "recipes" / "best.yaml"
SETTINGS = {
    "config": str(_RECIPE),
    "two_stage": "true",
    "num_workers": "2",
    "epoch_stage1": "6",
    "epoch_stage2": "6",
    "epoch_stage2_accumulation": "2",
}
_OTHER, _STAGE = "other", "change of stage"
_PHASES = {
    "step": (Solver, "train"),
    "validation": (Solver, "validate"),
    "checkpoint": (FoldCheckpoints, "save"),
    _STAGE: (Solver, "begin_stage"),
}
_NAMES = (_OTHER, *_PHASES)
_CURVES = ("loss/train", "loss/val", "dice/all", "dice/positive", "dice/empty_kept", "lr")
_MAX_DELAY = 0.2
"""Maximum time from the start of a phase to the kill, in seconds; less where phases are shorter."""


class Phase:
    """The current phase of a run, in memory shared with the process that kills it."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 1)

    def __str__(self) -> str:
        return _NAMES[self._memory[0]]

    def enter(self, name: str) -> None:
        """Set the current phase."""
        self._memory[0] = _NAMES.index(name)

    def track(self) -> None:
        """Patch the training code of this process to set the current phase."""
        for name, (owner, method) in _PHASES.items():
            setattr(owner, method, self._tracked(name, getattr(owner, method)))

    def _tracked(self, name: str, method: Callable) -> Callable:
        def tracked(*args: Any, **kwargs: Any) -> Any:
            # begin_stage(solver, stage, first_epoch) only counts for the start of stage 2.
            counts = name != _STAGE or (args[1].number == 2 and args[2] == 0)
            self.enter(name if counts else _OTHER)
            try:
                return method(*args, **kwargs)
            finally:
                self.enter(_OTHER)

        return tracked


def kill_in(process: int, target: str, phase: Phase, rng: random.Random) -> bool:
    """Wait until the run is in the target phase, then for a random time, and kill it there.

    Returns:
        Whether it was killed; the run may end first.
    """
    longest = _MAX_DELAY
    while os.waitpid(process, os.WNOHANG) == (0, 0):
        if str(phase) == target:
            time.sleep(rng.uniform(0, longest))
            if str(phase) == target:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
                return True
            # The phase ended during the delay, and a short run has few more.
            longest /= 2
        time.sleep(0.0005)
    return False


def disturb(folder: Path, kills: int, deadline: float, settings: dict[str, str]) -> Counter:
    """Train and kill the run named "killed"; return the number of kills by phase."""
    rng, phase = random.Random(0), Phase()
    done: Counter[str] = Counter()
    # The change of stage comes once in a run, so all kills there are consecutive.
    each = [name for name in _PHASES if name != _STAGE] * (kills // 8 + 1)
    targets = [*rng.sample(each, len(each)), *[_STAGE] * (kills // 4), *rng.sample(each, len(each))]
    for target in tqdm(targets[:kills], "kills", unit="kill"):
        if time.monotonic() > deadline:
            break
        phase.enter(_OTHER)
        resume = "true" if done else "false"
        process = start(folder, "killed", {"resume": resume, **settings}, phase.track)
        if not kill_in(process, target, phase, rng):
            break
        done[target] += 1
    return done


def finish(folder: Path, run_name: str, changes: dict[str, str]) -> None:
    """Train a run to its end, and raise SystemExit with its output if it fails."""
    process = start(folder, run_name, changes)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if code:
        output = (folder / f"{run_name}.txt").read_text()[-3000:]
        raise SystemExit(f"{output}\nrun {run_name} ended with exit code {code}")


def differences(one: Path, other: Path) -> list[str]:
    """Compare the results of two runs of a fold, and list what differs."""
    found = []
    for path in sorted(one.glob("*.pth")):
        mine, theirs = (
            torch.load(folder / path.name, map_location="cpu") for folder in (one, other)
        )
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
    """Print the kills by phase and the differences; return the exit code."""
    parser = open_parser("python -m benchmarks.kills", __doc__)
    parser.add_argument("--kills", type=int, default=52, help="number of kills (default: 52)")
    parser.add_argument(
        "--minutes", type=float, default=20, help="minutes until killing stops (default: 20)"
    )
    given = parser.parse_args()
    started = time.monotonic()
    with small_data(_IMAGES) as folder:
        finish(folder, "undisturbed", SETTINGS)
        undisturbed = time.monotonic() - started
        done = disturb(folder, given.kills, started + 60 * given.minutes, SETTINGS)
        finish(folder, "killed", {"resume": "true", **SETTINGS})
        found = differences(fold_folder(folder, "undisturbed"), fold_folder(folder, "killed"))
    phases = ", ".join(f"{done[name]} in a {name}" for name in _PHASES)
    print(f"{done.total()} kills ({phases}) and as many resumes")
    print(f"undisturbed run {undisturbed:.0f} s, total {time.monotonic() - started:.0f} s")
    print("; ".join(found) if found else "checkpoints, oof.npz and curves are identical")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
