"""The checkpoints of a fold: which to keep, which is the best, and where to resume.

A checkpoint is a dict of tensors and plain types that torch's safe loader opens.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from utils.config.layout import (
    OUT_OF_FOLD,
    best_checkpoints,
    checkpoint_path,
    fold_number,
    kept_checkpoints,
    list_checkpoints,
    parse_checkpoint,
)
from utils.config.settings import Config
from utils.config.stages import Stage
from utils.errors import InputError
from utils.files import atomic_write, link_or_copy, remove_temporaries
from utils.safe_load import DamagedError, load_file, reason_of
from utils.signals import find_death

_GB = 1e9

_RANKS: dict[str, Callable[[dict], tuple[float, ...]]] = {
    "dice": lambda result: (result["dice"], -result["loss"]),
    "loss": lambda result: (-result["loss"],),
    "last": lambda result: (result["epoch"],),
}
"""Sort key of an epoch for each --best_by; the best epoch has the largest key."""


def keep_best(kept: list[dict], result: dict, config: Config) -> list[dict]:
    """Return the `config.keep_best` best epochs, best first; ties go to the earlier epoch.

    Args:
        kept: the best epochs so far, best first.
        result: result of the epoch to rank: `epoch`, and validation `dice` and `loss`.
        config: `keep_best` and `best_by`.
    """
    ordered = sorted([*kept, result], key=_RANKS[config.best_by], reverse=True)
    return ordered[: config.keep_best]


def find_resume_point(
    checkpoints: "FoldCheckpoints", stages: tuple[Stage, ...], skip_first: bool
) -> tuple[int, int]:
    """Find the first epoch that remains to be trained.

    1. Of the stages with a last checkpoint, the latest continues after that epoch. Those before it
       are finished, even if --mode train_stage2 cut stage 1 short: the later stage has begun from
       its best weights, and would be overwritten after more epochs of it.
    2. If that was its final epoch, the next stage starts.
    3. Without a last checkpoint, the first stage starts that is not skipped.

    Args:
        checkpoints: the checkpoints of the fold.
        stages: all stages of the run, in order.
        skip_first: skip stage 1, even if it is unfinished, as with --mode train_stage2.

    Returns:
        The index of the stage in `stages`, and the epoch (from 0) in that stage; len(stages) and 0
        if every stage is finished.

    Raises:
        InputError: a checkpoint is damaged.
    """
    first = int(skip_first)
    for index in reversed(range(first, len(stages))):
        done = checkpoints.epochs_done(stages[index].number)
        if done:
            return (index, done) if done < stages[index].epochs else (index + 1, 0)
    return first, 0


def load_checkpoint(path: Path) -> dict:
    """Load a checkpoint onto the CPU, and check that it is the one its place is for.

    The networks of another fold were trained on the images that this fold is validated on.

    Raises:
        InputError: it is missing, damaged, or of another fold, stage or epoch than its folder and
            its name say.
    """
    content = load_file(path)
    place = {"fold": fold_number(path.parent)}
    name = parse_checkpoint(path.name)
    if name is not None:
        place |= {"stage": name.stage, "epoch": None if name.epoch is None else name.epoch - 1}
    # A file of weights alone, which a user may have made to share them, says nothing of these.
    known = [key for key, value in place.items() if value is not None and key in content]
    if any(content[key] != place[key] for key in known):
        raise InputError(
            f"{path} holds {_describe(content, known)}, but lies where {_describe(place, known)} "
            "belongs. Put the right file there, or remove it"
        )
    return content


def _describe(place: dict, keys: list[str]) -> str:
    counted = {**place, "epoch": place["epoch"] + 1} if "epoch" in keys else place
    return ", ".join(f"{key} {counted[key]}" for key in keys)


class FoldCheckpoints:
    """The checkpoints of one fold: stageN_last.pth and stageN_best.pth.

    Args:
        folder: the fold's folder.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def path(self, stage_number: int, which: str) -> Path:
        """Return the path of a stage's checkpoint; `which` is last or best."""
        return checkpoint_path(self.folder, stage_number, which)

    def load(self, stage_number: int, which: str) -> dict:
        """Load a stage's checkpoint onto the CPU.

        Raises:
            InputError: see `load_checkpoint`; if it is missing or damaged, the error names an
                alternative.
        """
        path = self.path(stage_number, which)
        try:
            return load_checkpoint(path)
        except InputError as error:
            if path.exists() and not isinstance(error, DamagedError):
                raise
            raise InputError(f"{error}. {self._alternative(stage_number, which)}") from error

    def load_start(self, stage_number: int, first_epoch: int) -> dict:
        """Load the checkpoint that a stage starts from; empty if there is none.

        Args:
            stage_number: the stage.
            first_epoch: 0 to start the stage; otherwise the epoch after its last checkpoint.
        """
        if first_epoch:
            return self.load(stage_number, "last")
        return self.load(stage_number - 1, "best") if stage_number > 1 else {}

    def check_best(self, stage_number: int) -> None:
        """Refuse a stage without the weights of its best epoch.

        Raises:
            InputError: see `load`.
        """
        if self.path(stage_number, "best") in self.best(stage_number):
            self.load(stage_number, "best")

    def epochs_done(self, stage_number: int) -> int:
        """Return the number of epochs that a stage has completed: 0 without a last checkpoint.

        Raises:
            InputError: the checkpoint is damaged.
        """
        if not self.path(stage_number, "last").exists():
            return 0
        return self.load(stage_number, "last")["epoch"] + 1

    def best(self, stage_number: int) -> list[Path]:
        """List the checkpoints of a stage's best epochs: several with `keep_best`, else one."""
        return best_checkpoints(self.folder, stage_number)

    def save(self, content: dict, several: bool = False) -> None:
        """Write the last checkpoint of a stage, and link it to other names if it is to be kept.

        The last checkpoint appears after its other names: an interruption in between then leaves an
        epoch to repeat, not a finished epoch without its best weights. Epochs that are not among
        the best any more are removed at the end.

        Args:
            content: content of the checkpoint; `kept` lists the epochs to keep, best first.
            several: keep each of them as stageN_epochE.pth, with E from 1, in addition to
                stageN_best.pth.

        Raises:
            InputError: it cannot be written; existing checkpoints are unchanged.
        """
        number, epoch = content["stage"], content["epoch"]
        kept = [result["epoch"] for result in content["kept"]]
        names = [self._numbered(number, epoch)] if several and epoch in kept else []
        names += [self.path(number, "best")] if epoch in kept[:1] else []
        last = self.path(number, "last")
        try:
            with atomic_write(last) as temporary:
                torch.save(content, temporary)
                for name in names:
                    with atomic_write(name) as link:
                        link_or_copy(temporary, link)
        except (OSError, RuntimeError) as error:  # torch's writer raises RuntimeError
            if find_death(error):
                raise
            raise InputError(
                f"{last} cannot be written ({reason_of(error)}). {self._what_to_mend()}, then "
                "resume with --resume true"
            ) from error
        self._keep_only(number, kept)

    def remove_leftovers(self) -> None:
        """Remove temporary files and outdated epochs that a killed process left.

        Raises:
            InputError: a checkpoint is damaged.
        """
        remove_temporaries(self.folder, _is_own)
        for number in {name.stage for name, _ in list_checkpoints(self.folder) if name.epoch}:
            if self.path(number, "last").exists():
                kept = self.load(number, "last")["kept"]
                self._keep_only(number, [result["epoch"] for result in kept])

    def _what_to_mend(self) -> str:
        """Return advice on a checkpoint that cannot be written, for which torch gives no reason."""
        if not self.folder.is_dir():
            return f"The folder {self.folder} was removed or renamed: restore it"
        if not os.access(self.folder, os.W_OK):
            return f"Existing checkpoints are intact: make {self.folder} writable"
        free = shutil.disk_usage(self.folder).free / _GB
        return f"Existing checkpoints are intact: free some space ({free:.2f} GB are free)"

    def _numbered(self, stage_number: int, epoch: int) -> Path:
        return self.folder / f"stage{stage_number}_epoch{epoch + 1}.pth"

    def _keep_only(self, stage_number: int, kept: list[int]) -> None:
        for epoch, path in kept_checkpoints(self.folder, stage_number).items():
            if epoch not in kept:
                path.unlink()

    def _alternative(self, stage_number: int, which: str) -> str:
        """Return advice on how to continue without a missing or damaged checkpoint."""
        last, best = (self.path(stage_number, name) for name in ("last", "best"))
        other = best if which == "last" else last
        try:
            epoch = load_checkpoint(other)["epoch"] + 1
        except InputError:
            # A later stage would be resumed instead, as `find_resume_point` says.
            found = list_checkpoints(self.folder)
            names = ", ".join(path.name for name, path in found if name.stage >= stage_number)
            return (
                f"Remove {names} from {self.folder}; --resume true then restarts stage "
                f"{stage_number}"
            )
        return (
            f"{other.name} is intact (epoch {epoch}): copy it to "
            f"{self.path(stage_number, which)}, then resume with --resume true"
        )


def _is_own(name: str) -> bool:
    """Return whether a file of this name in the folder of a fold is written atomically."""
    return name == OUT_OF_FOLD or parse_checkpoint(name) is not None
