"""One pass over the training images: an optimizer step per group of accumulated batches."""

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from datasets.sampling import StepPart
from models.cpu.depthwise import FloatDepthwiseGradients
from models.interface import NetworkOutput, normalise
from utils.config.normalisation import IMAGENET, Normalisation
from utils.distributed import gather
from utils.signals import Stopped

SYNC_EVERY = 20
"""Batches between checks of the losses; each check makes the host wait for the device."""
_NONE = torch.iinfo(torch.int64).max


class TrainResult(NamedTuple):
    """Result of a pass over the training images.

    Attributes:
        loss: mean over the images of all processes.
        images_per_second: over all processes.
    """

    loss: float
    images_per_second: float


def train_epoch(
    fabric: Fabric,
    model: nn.Module,
    optimizer: Optimizer,
    batches: Iterable[tuple[Tensor, Tensor]],
    parts: list[StepPart],
    loss_function: Callable[[NetworkOutput, Tensor], Tensor],
    after_step: Callable[[], None] = lambda: None,
    clip_grad_norm: float = 0.0,
    stop_requested: Callable[[], bool] = lambda: False,
    normalisation: Normalisation = IMAGENET,
) -> TrainResult:
    """Train on every batch once.

    Losses stay on the device and are read at the end, so the host waits for the device only when
    `LossMonitor` checks them.

    Args:
        fabric: device, precision and processes.
        model: the network, set up by `fabric`, in training mode.
        optimizer: set up by `fabric`.
        batches: images and masks for this process, uint8 [B,1,S,S].
        parts: the position of each batch in its optimizer step.
        loss_function: the network's output and the mask -> mean over the batch.
        after_step: called after every optimizer step.
        clip_grad_norm: maximum gradient norm of a step; 0 disables clipping.
        stop_requested: returns whether this process should stop.
        normalisation: of the images.

    Raises:
        NonFiniteLoss: a loss was NaN or infinite.
        Stopped: this process or another one of the training was asked to stop.
    """
    monitor = LossMonitor(fabric, len(parts), stop_requested)
    started, images = time.perf_counter(), 0
    losses = []
    for number, (part, (image, mask)) in enumerate(zip(parts, batches, strict=True)):
        image, mask = (t.to(fabric.device, non_blocking=True) for t in (image, mask))
        counted = len(image) - part.padding
        # DDP averages over processes, whose shares of a batch may differ in size.
        weight = counted * fabric.world_size / part.step_images
        # Fabric's type for the modules that it sets up is private.
        with fabric.no_backward_sync(cast(Any, model), enabled=not part.last):
            with _fast_gradients(fabric):
                output = model(normalise(image, normalisation))
            if part.padding:
                # With no image that counts, the process takes part with a weight of 0.
                output, mask = _first_images(output, mask, max(1, counted))
            loss = loss_function(output, mask)
            fabric.backward(loss * weight)
        losses.append(loss.detach() * counted)
        monitor.record(number, loss)
        if part.last:
            _step(fabric, model, optimizer, clip_grad_norm)
            after_step()
            images += part.step_images
            monitor.check(number)
    total = sum_losses(fabric, losses)
    return TrainResult(total / images, images / (time.perf_counter() - started))


class NonFiniteLoss(Exception):
    """A loss was NaN or infinite.

    Attributes:
        first: number of the first batch with such a loss.
        since: number of the first batch after the last check that passed.
        until: number of trained batches.
    """

    def __init__(self, first: int, since: int, until: int):
        super().__init__(f"the loss of batch {first} is not finite")
        self.first = first
        self.since = since
        self.until = until


class LossMonitor:
    """Tracks on the device whether losses are finite, and checks it every `SYNC_EVERY` batches.

    Args:
        fabric: device and processes.
        batches: number of batches in the pass.
        stop_requested: returns whether this process should stop.
    """

    def __init__(self, fabric: Fabric, batches: int, stop_requested: Callable[[], bool]):
        self.fabric = fabric
        self.batches = batches
        self.stop_requested = stop_requested
        self._since = 0
        self._first_bad = torch.full((), _NONE, device=fabric.device)

    def record(self, batch: int, loss: Tensor) -> None:
        """Record the loss of a batch without making the host wait."""
        bad = torch.where(torch.isfinite(loss.detach()), _NONE, batch)
        self._first_bad = torch.minimum(self._first_bad, bad)

    def check(self, batch: int) -> None:
        """Decide, after the optimizer step that ended with `batch`, whether to continue.

        A single process stops right after this step. Several processes stop only at a check, where
        they agree on it: if one stopped on its own, the others would wait for it forever.

        Raises:
            NonFiniteLoss: a loss since the last check was not finite, in any process.
            Stopped: this process or another one of the training was asked to stop.
        """
        if self.fabric.world_size == 1 and self.stop_requested():
            raise Stopped
        done = batch + 1
        if done == self.batches or done // SYNC_EVERY > self._since // SYNC_EVERY:
            stop = torch.tensor(int(self.stop_requested()), device=self.fabric.device)
            # One reduction for both: the maximum of the negated numbers is the first bad batch.
            both = torch.stack((-self._first_bad, stop))
            reduced = torch.as_tensor(self.fabric.all_reduce(both, reduce_op="max"))
            negated_first, any_stop = reduced.tolist()
            if -negated_first != _NONE:
                raise NonFiniteLoss(-negated_first, self._since, done)
            if any_stop:
                raise Stopped
            self._since = done


def sum_losses(fabric: Fabric, losses: list[Tensor]) -> float:
    """Return the sum of scalars on the device over all processes, added in double precision.

    It is added on the host: Apple's GPUs have no double precision.
    """
    mine = torch.stack(losses).tolist() if losses else []
    return sum(gather(fabric, mine))


def _fast_gradients(fabric: Fabric) -> AbstractContextManager:
    return FloatDepthwiseGradients() if fabric.device.type == "cpu" else nullcontext()


def _first_images(output: NetworkOutput, mask: Tensor, count: int) -> tuple[NetworkOutput, Tensor]:
    parts = output[:count] if isinstance(output, Tensor) else (output[0][:count], output[1][:count])
    return parts, mask[:count]


def _step(fabric: Fabric, model: nn.Module, optimizer: Optimizer, clip_grad_norm: float) -> None:
    if clip_grad_norm:
        fabric.clip_gradients(model, optimizer, max_norm=clip_grad_norm, error_if_nonfinite=False)
    optimizer.step()
    optimizer.zero_grad()
