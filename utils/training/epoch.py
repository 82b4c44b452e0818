"""One pass over training images: forward, backward, a step for every group of batches."""

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from datasets.sampling import Part
from models.inputs import normalise
from utils.training.watch import Watch


class Trained(NamedTuple):
    """What a pass over the training images gives.

    Attributes:
        loss: mean over all images, of all processes.
        images_per_second: over all processes.
    """

    loss: float
    images_per_second: float


def train(
    fabric: Fabric,
    model: nn.Module,
    optimizer: Optimizer,
    batches: Iterable[tuple[Tensor, Tensor]],
    parts: list[Part],
    loss_function: Callable[[Tensor, Tensor], Tensor],
    behind_step: Callable[[], None] = lambda: None,
    clip_grad_norm: float = 0.0,
    told_to_stop: Callable[[], bool] = lambda: False,
) -> Trained:
    """Learn from every batch once.

    The host waits for the device at the readings of `Watch` only: losses are summed there and read
    at the end.

    Args:
        fabric: knows device, precision and processes.
        model: the network, set up by `fabric`, in training mode.
        optimizer: set up by `fabric`.
        batches: images and masks of this process, uint8 [B,1,S,S].
        parts: the place of each batch in its optimizer step.
        loss_function: the network's output and mask -> mean over the batch.
        behind_step: called behind every optimizer step.
        clip_grad_norm: largest norm of a step's gradient; 0 leaves it.
        told_to_stop: says whether this process is to stop.

    Raises:
        NotFinite: a loss was not a finite number.
        Stopped: this process, or another that trains with it, was told to stop.
    """
    watch = Watch(fabric, len(parts), told_to_stop)
    started, images = time.perf_counter(), 0
    loss_sum = torch.zeros((), dtype=torch.float64, device=fabric.device)
    for number, (part, (image, mask)) in enumerate(zip(parts, batches, strict=True)):
        image, mask = (t.to(fabric.device, non_blocking=True) for t in (image, mask))
        # DDP averages over processes, which may hold unequal parts of a batch.
        weight = len(image) * fabric.world_size / part.step_images
        with fabric.no_backward_sync(model, enabled=not part.last):
            loss = loss_function(model(normalise(image)), mask)
            fabric.backward(loss * weight)
        loss_sum += loss.detach().double() * len(image)
        watch.follow(number, loss)
        if part.last:
            _step(fabric, model, optimizer, clip_grad_norm)
            behind_step()
            images += part.step_images
            watch.look(number)
    loss = fabric.all_reduce(loss_sum, reduce_op="sum").item() / images
    return Trained(loss, images / (time.perf_counter() - started))


def _step(fabric: Fabric, model: nn.Module, optimizer: Optimizer, clip_grad_norm: float) -> None:
    if clip_grad_norm:
        fabric.clip_gradients(model, optimizer, max_norm=clip_grad_norm, error_if_nonfinite=False)
    optimizer.step()
    optimizer.zero_grad()
