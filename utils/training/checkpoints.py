"""The checkpoints of a fold: which are kept, which is the best, where a resume continues.

A checkpoint is a dict of tensors and plain types that torch's safe loader opens.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from utils.config.settings import Config
from utils.config.stages import Stage
from utils.errors import InputError
from utils.files import atomic_write, link_or_copy
from utils.safe_load import DamagedError, load_file, reason_of

_GB = 1e9

_RANKS: dict[str, Callable[[dict], tuple[float, ...]]] = {
    "dice": lambda result: (result["dice"], -result["loss"]),
    "loss": lambda result: (-result["loss"],),
    "last": lambda result: (result["epoch"],),
}
"""Sort key of an epoch for each --best_by; the best epoch has the largest."""


def keep_best(kept: list[dict], result: dict, config: Config) -> list[dict]:
    """Return the `config.keep_best` best epochs, best first; ties go to the earlier epoch.

    Args:
        kept: the best epochs so far, best first.
        result: of the epoch to rank: `epoch`, and validation `dice` and `loss`.
        config: how many to keep, and `best_by`.
    """
    ordered = sorted([*kept, result], key=_RANKS[config.best_by], reverse=True)
    return ordered[: config.keep_best]


def find_resume_point(
    checkpoints: "FoldCheckpoints", stages: tuple[Stage, ...], skip_first: bool
) -> tuple[int, int]:
    """Find the first epoch that is still to do.

    1. A stage whose last checkpoint is of its last epoch is finished. So is stage 1 if it is
       skipped, as with --mode train_stage2.
    2. A stage with a last checkpoint continues after that epoch.
    3. A stage without one starts at its first epoch.

    Args:
        checkpoints: of the fold.
        stages: all stages of the run, in order.
        skip_first: do not train stage 1, whatever exists of it.

    Returns:
        The index of the stage in `stages`, and the epoch (from 0) in that stage; len(stages) and 0
        if every stage is finished.

    Raises:
        InputError: a checkpoint is damaged.
    """
    for index, stage in enumerate(stages):
        skipped = skip_first and stage.number == 1
        done = stage.epochs if skipped else checkpoints.epochs_done(stage.number)
        if done < stage.epochs:
            return index, done
    return len(stages), 0


class FoldCheckpoints:
    """The checkpoints of one fold: stageN_last.pth and stageN_best.pth.

    Args:
        folder: the fold's folder.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def path(self, stage_number: int, which: str) -> Path:
        """Return the path of a stage's checkpoint; `which` is last or best."""
        return self.folder / f"stage{stage_number}_{which}.pth"

    def load(self, stage_number: int, which: str) -> dict:
        """Load a stage's checkpoint onto the CPU.

        Raises:
            InputError: it is missing or damaged; if damaged, the error says what to use instead.
        """
        path = self.path(stage_number, which)
        try:
            return load_file(path)
        except DamagedError as error:
            raise InputError(f"{error}. {self._alternative(stage_number, which)}") from error

    def load_start(self, stage_number: int, first_epoch: int) -> dict:
        """Load the checkpoint that a stage starts from; empty if there is none.

        Args:
            stage_number: the stage.
            first_epoch: 0 to start it; otherwise the epoch after its last checkpoint.
        """
        if first_epoch:
            return self.load(stage_number, "last")
        return self.load(stage_number - 1, "best") if stage_number > 1 else {}

    def epochs_done(self, stage_number: int) -> int:
        """Return how many epochs of a stage its last checkpoint has completed, 0 without one.

        Raises:
            InputError: the checkpoint is damaged.
        """
        if not self.path(stage_number, "last").exists():
            return 0
        return self.load(stage_number, "last")["epoch"] + 1

    def best(self, stage_number: int) -> list[Path]:
        """List the kept epochs of a stage: several with `keep_best`, otherwise only its best."""
        kept = sorted(self.folder.glob(f"stage{stage_number}_epoch*.pth"))
        return kept or [self.path(stage_number, "best")]

    def save(self, content: dict, several: bool = False) -> None:
        """Write the last checkpoint of a stage, with further names if it is among the kept ones.

        The further names appear first, so that an interruption in between leaves an epoch to
        repeat, not one whose weights are missing. Epochs no longer kept are removed last.

        Args:
            content: of the checkpoint; `kept` lists the epochs to keep, best first.
            several: keep each of them as stageN_epochE.pth, E counted from 1, besides the best as
                stageN_best.pth.

        Raises:
            InputError: it cannot be written; existing checkpoints are unchanged.
        """
        number, epoch = content["stage"], content["epoch"]
        kept = [result["epoch"] for result in content["kept"]]
        names = [self._numbered(number, epoch)] if several and epoch in kept else []
        names += [self.path(number, "best")] if epoch == kept[0] else []
        last = self.path(number, "last")
        try:
            with atomic_write(last) as temporary:
                torch.save(content, temporary)
                for name in names:
                    with atomic_write(name) as second_name:
                        link_or_copy(temporary, second_name)
        except (OSError, RuntimeError) as error:  # torch's writer has no error class of its own
            free = shutil.disk_usage(self.folder).free / _GB
            raise InputError(
                f"{last} cannot be written ({reason_of(error)}; {free:.2f} GB free). Existing "
                "checkpoints are complete: free some space, then use --resume true"
            ) from error
        self._keep_only(number, kept)

    def remove_leftovers(self) -> None:
        """Remove files that a killed process left half written or had no time to remove.

        Raises:
            InputError: a checkpoint is damaged.
        """
        for path in self.folder.glob(".*.*.*"):
            path.unlink()
        for number in {p.name[len("stage")] for p in self.folder.glob("stage?_epoch*.pth")}:
            if self.path(int(number), "last").exists():
                kept = self.load(int(number), "last")["kept"]
                self._keep_only(int(number), [result["epoch"] for result in kept])

    def _numbered(self, stage_number: int, epoch: int) -> Path:
        return self.folder / f"stage{stage_number}_epoch{epoch + 1}.pth"

    def _keep_only(self, stage_number: int, kept: list[int]) -> None:
        names = {self._numbered(stage_number, epoch) for epoch in kept}
        for path in self.folder.glob(f"stage{stage_number}_epoch*.pth"):
            if path not in names:
                path.unlink()

    def _alternative(self, stage_number: int, which: str) -> str:
        """Say how to continue without a damaged checkpoint."""
        last, best = (self.path(stage_number, name) for name in ("last", "best"))
        other = best if which == "last" else last
        try:
            epoch = load_file(other)["epoch"] + 1
        except InputError:
            names = f"{last.name} and {best.name}"
            return f"Remove {names} from {self.folder}; --resume true then restarts the stage"
        return (
            f"{other.name} is intact, of epoch {epoch}: copy it to "
            f"{self.path(stage_number, which)}, then use --resume true"
        )
