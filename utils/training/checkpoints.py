"""Checkpoints: dicts of tensors and plain types, written whole, opened by torch's safe loader."""

import shutil
import zipfile
from pathlib import Path

import numpy as np
import torch

from utils.errors import InputError
from utils.files import atomic, give_second_name

_GB = 1e9
_NUMPY_FLOATS = [
    np._core.multiarray.scalar,
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),
    np.dtype,
    np.dtypes.Float64DType,
    np.dtypes.Float32DType,
]
"""What a numpy float is made of, under its name before numpy 2 and since: checkpoints of the
original hold their best Dice as one. None of these runs code that a file brings along."""


class DamagedError(InputError):
    """A checkpoint that cannot be read."""


def reason_of(error: Exception) -> str:
    """Say in one line why torch could not read a file."""
    if isinstance(error, OSError | RuntimeError) and str(error):
        return str(error).splitlines()[0]
    # For a refused pickle torch's own words advise to load it without safety.
    return "it is damaged, or holds more than tensors and plain types"


def load_file(path: str | Path) -> dict:
    """Read a dict of tensors, plain types and numpy floats onto the CPU with torch's safe loader.

    Raises:
        InputError: the file is missing or holds something else.
        DamagedError: the file cannot be read, or a byte of it has changed.
    """
    try:
        _check_sums(path)
        with torch.serialization.safe_globals(_NUMPY_FLOATS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"no checkpoint at {path}") from error
    except Exception as error:  # a damaged pickle raises whatever its bytes lead to
        raise DamagedError(f"{path} cannot be read as a checkpoint: {reason_of(error)}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not a dict of weights")
    return content


def _check_sums(path: str | Path) -> None:
    """Compare every part of a checkpoint, a zip file, with its checksum, which torch does not."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as parts:
            damaged = parts.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(damaged)


class FoldCheckpoints:
    """The checkpoints of one fold: stageN_last.pth and stageN_best.pth.

    Args:
        folder: the fold's folder.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def path(self, stage_number: int, which: str) -> Path:
        """Return the file of a stage's checkpoint; `which` is last or best."""
        return self.folder / f"stage{stage_number}_{which}.pth"

    def load(self, stage_number: int, which: str) -> dict:
        """Read a stage's checkpoint onto the CPU.

        Raises:
            InputError: it is missing, or damaged; then with what can be used instead.
        """
        path = self.path(stage_number, which)
        try:
            return load_file(path)
        except DamagedError as error:
            raise InputError(f"{error}. {self._instead(stage_number, which)}") from error

    def epochs_done(self, stage_number: int) -> int:
        """Return how many epochs of a stage its last checkpoint has behind it, 0 without one.

        Raises:
            InputError: the checkpoint is damaged.
        """
        if not self.path(stage_number, "last").exists():
            return 0
        return self.load(stage_number, "last")["epoch"] + 1

    def best(self, stage_number: int) -> list[Path]:
        """List the kept epochs of a stage: several with `keep_best`, otherwise its best alone."""
        kept = sorted(self.folder.glob(f"stage{stage_number}_epoch*.pth"))
        return kept or [self.path(stage_number, "best")]

    def save(self, content: dict, kept: list[int], several: bool = False) -> None:
        """Write the last checkpoint of a stage, which gets further names if it is to be kept.

        These names appear first: an interruption in between leaves an epoch to repeat, not one
        whose weights are missing. What is no longer kept is removed last.

        Args:
            content: of the checkpoint.
            kept: epochs (from 0) to keep, best first: the first as stageN_best.pth.
            several: keep each of them as stageN_epochE.pth too, E counted from 1.

        Raises:
            InputError: the disk does not take it; the checkpoints before it are as they were.
        """
        number, epoch = content["stage"], content["epoch"]
        names = [self._numbered(number, epoch)] if several and epoch in kept else []
        names += [self.path(number, "best")] if epoch == kept[0] else []
        last = self.path(number, "last")
        try:
            with atomic(last) as temporary:
                torch.save(content, temporary)
                for name in names:
                    with atomic(name) as second_name:
                        give_second_name(temporary, second_name)
        except (OSError, RuntimeError) as error:  # torch's writer has no error class of its own
            free = shutil.disk_usage(self.folder).free / _GB
            raise InputError(
                f"{last} cannot be written ({reason_of(error)}; {free:.2f} GB are free). What was "
                "there is whole: make room, then go on with --resume true"
            ) from error
        self._keep_only(number, kept)

    def remove_leftovers(self) -> None:
        """Remove what a killed process left half written, or did not come to remove.

        Raises:
            InputError: a checkpoint is damaged.
        """
        for path in self.folder.glob(".*.*.*"):
            path.unlink()
        for number in {p.name[len("stage")] for p in self.folder.glob("stage?_epoch*.pth")}:
            if self.path(int(number), "last").exists():
                kept = self.load(int(number), "last")["kept"]
                self._keep_only(int(number), [reached["epoch"] for reached in kept])

    def _numbered(self, stage_number: int, epoch: int) -> Path:
        return self.folder / f"stage{stage_number}_epoch{epoch + 1}.pth"

    def _keep_only(self, stage_number: int, kept: list[int]) -> None:
        names = {self._numbered(stage_number, epoch) for epoch in kept}
        for path in self.folder.glob(f"stage{stage_number}_epoch*.pth"):
            if path not in names:
                path.unlink()

    def _instead(self, stage_number: int, which: str) -> str:
        """Say how to go on without a damaged checkpoint."""
        last, best = (self.path(stage_number, name) for name in ("last", "best"))
        other = best if which == "last" else last
        try:
            epoch = load_file(other)["epoch"] + 1
        except InputError:
            names = f"{last.name} and {best.name}"
            return f"Remove {names} from {self.folder}, and --resume true begins the stage again"
        return (
            f"{other.name} is whole, of epoch {epoch}: copy it to {self.path(stage_number, which)},"
            " then go on with --resume true"
        )
