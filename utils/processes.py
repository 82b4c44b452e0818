"""Keeping the processes that train one network together."""

from collections.abc import Callable
from typing import TypeVar

import torch
from lightning_fabric import Fabric
from torch import nn

from utils.errors import InputError

T = TypeVar("T")


def decide_once(fabric: Fabric, decide: Callable[[], T]) -> T:
    """Let the first process decide and hand the result to all.

    Raises:
        InputError: the decision failed; then in every process, so that none waits for another.
    """
    outcome: T | InputError | None = None
    if fabric.is_global_zero:
        try:
            outcome = decide()
        except InputError as error:
            outcome = error
    outcome = fabric.broadcast(outcome)
    if isinstance(outcome, InputError):
        raise outcome
    return outcome


def share_buffers(fabric: Fabric, module: nn.Module) -> None:
    """Give every process the first one's buffers: each moved its own batch-norm statistics."""
    if fabric.world_size > 1:
        for buffer in module.buffers():
            torch.distributed.broadcast(buffer, src=0)


def check_equal(fabric: Fabric, module: nn.Module) -> float:
    """Return a checksum over all weights and buffers.

    Raises:
        RuntimeError: it differs between processes.
    """
    checksum = torch.stack([value.double().sum() for value in module.state_dict().values()]).sum()
    checksums = fabric.all_gather(checksum).flatten().tolist()
    if len(set(checksums)) > 1:
        raise RuntimeError(f"the processes' weights drifted apart: checksums {checksums}")
    return checksums[0]
