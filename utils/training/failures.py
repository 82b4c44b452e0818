"""What a user is told where an epoch cannot be finished: where it was, and how to go on."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from datasets.sampling import EpochBatches
from utils.config.stages import Stage
from utils.errors import InputError
from utils.memory import is_out_of_memory
from utils.signals import Stopped
from utils.training.watch import NotFinite


@dataclass(frozen=True)
class Place:
    """An epoch of a run.

    Attributes:
        run_name: name of the run.
        folder: the fold's folder.
        fold: number of the fold.
        stage: the stage.
        epoch: from 0.
        processes: how many train together.
    """

    run_name: str
    folder: Path
    fold: int
    stage: Stage
    epoch: int
    processes: int

    def __str__(self) -> str:
        return f"fold {self.fold}, stage {self.stage.number}, epoch {self.epoch + 1}"

    @property
    def resume(self) -> str:
        """The flags that go on with the run."""
        return f"--run_name {self.run_name} --resume true"


@contextmanager
def explaining(
    place: Place, batches: EpochBatches, told_to_stop: Callable[[], bool]
) -> Iterator[None]:
    """Turn what ends an epoch early into words.

    Args:
        place: the epoch.
        batches: which images make up its training batches.
        told_to_stop: says whether this process is to stop.

    Raises:
        Stopped: the process was told to stop; also where another one, or a loader's worker, was
            gone before.
        InputError: the memory is too small, or a loss was not a finite number.
    """
    try:
        yield
    except NotFinite as error:
        raise InputError(_not_finite(place, error, batches)) from error
    except Stopped as stopped:
        raise Stopped(_stopped(place)) from stopped
    except RuntimeError as error:
        if told_to_stop():
            raise Stopped(_stopped(place)) from error
        if is_out_of_memory(error):
            raise InputError(_out_of_memory(place)) from error
        raise


def check_validated(place: Place, loss: float) -> None:
    """Refuse an epoch that ends in weights of no use, before it is ranked and kept.

    The losses of training are those before each step, so that they cannot tell of the last one.

    Raises:
        InputError: the validation loss is not a finite number.
    """
    if not math.isfinite(loss):
        raise InputError(
            f"{place}: the validation loss is not a finite number. {_advice(place.stage)}"
        )


def _stopped(place: Place) -> str:
    return f"stopped in {place}, which begins again with {place.resume}"


def _out_of_memory(place: Place) -> str:
    stage, flag = place.stage, f"--batch_size_stage{min(place.stage.number, 2)}"
    return (
        f"{place}: {stage.batch_size // place.processes} images of {stage.image_size} pixels at "
        f"once ({flag} {stage.batch_size}, {place.processes} processes) do not fit into the memory."
        f" Go on with {place.resume} and a smaller {flag} (or --precision bf16-mixed in a new run);"
        f" a stage that has begun starts anew once {place.folder}/stage{stage.number}_*.pth are "
        "removed"
    )


def _not_finite(place: Place, error: NotFinite, batches: EpochBatches) -> str:
    return (
        f"{place}, batch {error.first + 1}: the loss is not a finite number. Images of that batch: "
        f"{', '.join(batches.ids_of(error.first, error.first + 1))}. Batches {error.since + 1} to "
        f"{error.until} since the last good reading: "
        f"{', '.join(batches.ids_of(error.since, error.until))}. {_advice(place.stage)}"
    )


def _advice(stage: Stage) -> str:
    return (
        f"No checkpoint was overwritten. Try a lower rate (now {stage.lr:g} at its start), "
        "--clip_grad_norm 1 or --precision 32-true"
    )
