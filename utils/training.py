"""One pass over training images: forward, backward, a step for every group of batches."""

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from datasets.batches import Part
from models.inputs import normalise


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
) -> Trained:
    """Learn from every batch once.

    The host never waits for the device between the batches: losses are summed there and read at
    the end.

    Args:
        fabric: knows device, precision and processes.
        model: the network, set up by `fabric`, in training mode.
        optimizer: set up by `fabric`.
        batches: images and masks of this process, uint8 [B,1,S,S].
        parts: the place of each batch in its optimizer step.
        loss_function: logits and mask -> mean over the batch.
    """
    started, images = time.perf_counter(), 0
    loss_sum = torch.zeros((), dtype=torch.float64, device=fabric.device)
    for part, (image, mask) in zip(parts, batches, strict=True):
        image = image.to(fabric.device, non_blocking=True)
        mask = mask.to(fabric.device, non_blocking=True)
        # DDP averages over processes, which may hold unequal parts of a batch.
        weight = len(image) * fabric.world_size / part.step_images
        with fabric.no_backward_sync(model, enabled=not part.last):
            loss = loss_function(model(normalise(image)), mask)
            fabric.backward(loss * weight)
        if part.last:
            optimizer.step()
            optimizer.zero_grad()
            images += part.step_images
        loss_sum += loss.detach().double() * len(image)
    loss = fabric.all_reduce(loss_sum, reduce_op="sum").item() / images
    return Trained(loss, images / (time.perf_counter() - started))
