"""Readable errors for an epoch that cannot be finished: which epoch, and how to resume."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from datasets.sampling import EpochBatches
from utils.config.resume_command import resume_command
from utils.config.settings import Config
from utils.config.stages import Stage
from utils.errors import InputError
from utils.memory import is_out_of_memory
from utils.parallel import describe_death
from utils.signals import Stopped, find_death
from utils.training.epoch import NonFiniteLoss


@dataclass(frozen=True)
class EpochContext:
    """The position of an epoch in a run.

    Attributes:
        config: settings of the run.
        folder: the fold's folder.
        fold: number of the fold.
        stage: the stage.
        epoch: from 0.
        processes: number of processes in the training.
    """

    config: Config
    folder: Path
    fold: int
    stage: Stage
    epoch: int
    processes: int

    def __str__(self) -> str:
        return f"fold {self.fold}, stage {self.stage.number}, epoch {self.epoch + 1}"

    @property
    def resume_command(self) -> str:
        """The command that resumes the run."""
        return resume_command(self.config, self.folder.parent)


@contextmanager
def readable_errors(
    context: EpochContext, batches: EpochBatches, stop_requested: Callable[[], bool]
) -> Iterator[None]:
    """Turn whatever ends an epoch early into a message for the user.

    Args:
        context: the epoch.
        batches: its training batches.
        stop_requested: returns whether this process should stop.

    Raises:
        Stopped: the process was asked to stop, even if another process or a DataLoader worker ended
            first.
        InputError: out of memory, or a loss was not finite.
    """
    try:
        yield
    except NonFiniteLoss as error:
        raise InputError(_describe_non_finite(context, error, batches)) from error
    except Stopped as stopped:
        raise Stopped(_describe_stop(context)) from stopped
    except RuntimeError as error:
        if stop_requested():
            raise Stopped(_describe_stop(context)) from error
        if is_out_of_memory(error):
            raise InputError(_describe_out_of_memory(context)) from error
        raise


@contextmanager
def readable_deaths(
    where: str, command: Callable[[], str], check_files: Callable[[], None]
) -> Iterator[None]:
    """Say why a worker process died, and how to resume.

    Args:
        where: position in the run.
        command: returns the command that resumes the run. It is put together from the run's file of
            settings, which takes longer than a step on a GPU.
        check_files: raises `InputError` if a file that workers map into memory was cut, which ends
            them with a bus error.

    Raises:
        InputError: a worker process died.
    """
    try:
        yield
    except RuntimeError as error:
        death = find_death(error)
        if death is None:
            raise
        if death.bus_error:
            check_files()
        raise InputError(
            f"{where}: {describe_death(death)}. Use fewer --num_workers (0 loads in the main "
            f"process) or give it more memory; resume with:\n{command()}"
        ) from error


def check_validation_loss(context: EpochContext, loss: float) -> None:
    """Refuse an epoch with useless weights before it is ranked and saved.

    Each training loss is computed before its optimizer step, so none reflects the last step.

    Raises:
        InputError: the validation loss is not finite.
    """
    if not math.isfinite(loss):
        raise InputError(
            f"{context}: the validation loss is not finite. {_describe_remedy(context.stage)}"
        )


def check_weights(context: EpochContext, module: nn.Module) -> None:
    """Refuse an epoch with useless weights that no validation shows, before it is saved.

    Raises:
        InputError: a weight or a statistic of batch norm is not finite.
    """
    state = {n: value for n, value in module.state_dict().items() if value.is_floating_point()}
    # All are checked before the host waits for the device, once and not for every tensor.
    is_finite = torch.stack([torch.isfinite(value).all() for value in state.values()]).tolist()
    if not all(is_finite):
        name = list(state)[is_finite.index(False)]
        raise InputError(f"{context}: {name} is not finite. {_describe_remedy(context.stage)}")


def _describe_stop(context: EpochContext) -> str:
    return f"stopped in {context}; resume with:\n{context.resume_command}"


def _describe_out_of_memory(context: EpochContext) -> str:
    stage, flag = context.stage, f"--batch_size_stage{min(context.stage.number, 2)}"
    return (
        f"{context}: out of memory with {stage.batch_size // context.processes} images of "
        f"{stage.image_size} pixels per batch ({flag} {stage.batch_size}, {context.processes} "
        f"processes). Resume with a smaller {flag} (or start a new run with --precision "
        "bf16-mixed). A started stage keeps its batch size; to restart it, remove "
        f"{context.folder}/stage{stage.number}_*.pth. To resume, add {flag} to:\n"
        f"{context.resume_command}"
    )


def _describe_non_finite(context: EpochContext, error: NonFiniteLoss, batches: EpochBatches) -> str:
    return (
        f"{context}, batch {error.first + 1}: the loss is not finite. Images of that batch: "
        f"{', '.join(batches.ids_of(error.first, error.first + 1))}. Images of batches "
        f"{error.since + 1} to {error.until}, since the last check: "
        f"{', '.join(batches.ids_of(error.since, error.until))}. {_describe_remedy(context.stage)}"
    )


def _describe_remedy(stage: Stage) -> str:
    return (
        f"No checkpoint was overwritten. Try a lower learning rate (this stage: {stage.lr:g}), "
        "--clip_grad_norm 1 or --precision 32-true"
    )
