"""One pass over validation images: a histogram per image, at its original size, and the loss."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from datasets.loaders import ValidBatch
from models.inputs import normalise
from models.interface import read_output
from utils.postprocessing.histograms import (
    LEVELS,
    Histograms,
    count_levels,
    resize_probability,
    to_levels,
)


@dataclass(frozen=True)
class Shown:
    """One image of the stage's size, kept for a picture.

    Attributes:
        index: position in the data set.
        image: [S,S] uint8 grey.
        mask: [S,S] uint8 of 0 and 1, the truth.
        levels: [S,S] uint8, level floor(255 p) of the prediction.
    """

    index: int
    image: np.ndarray
    mask: np.ndarray
    levels: np.ndarray


@dataclass(frozen=True)
class Validation:
    """What a pass over the validation images gives.

    Attributes:
        histograms: of all images, in the order of the data set, the same in every process.
        loss: mean over all images.
        shown: the images asked for that this process saw.
    """

    histograms: Histograms
    loss: float
    shown: list[Shown]


@torch.inference_mode()
def validate(
    fabric: Fabric,
    module: nn.Module,
    loader: DataLoader,
    ids: list[str],
    loss_function: Callable[[Tensor, Tensor], Tensor],
    show: set[int],
    behind_batch: Callable[[], None] = lambda: None,
) -> Validation:
    """Predict every image once and count its pixels at every level.

    Each process sees the images that its loader has; the counts are then summed over processes, so
    that no image is missed or counted twice.

    Args:
        fabric: knows device, precision and processes.
        module: the bare network; a DDP wrapper would wait for processes with more batches.
        loader: gives `ValidBatch`.
        ids: of all images, in the order of the data set.
        loss_function: the network's output and mask -> mean over the batch.
        show: positions of images to keep for pictures.
        behind_batch: called behind every batch; may raise to end the pass.
    """
    module.eval()
    counts = torch.zeros(len(ids), 2, LEVELS, dtype=torch.int32, device=fabric.device)
    sizes = torch.zeros(len(ids), 2, dtype=torch.int32)
    loss = torch.zeros((), dtype=torch.float64, device=fabric.device)
    shown = []
    for batch in tqdm(loader, "validate", leave=False, disable=not fabric.is_global_zero):
        image, mask = (t.to(fabric.device, non_blocking=True) for t in (batch.image, batch.mask))
        with fabric.autocast():
            output = module(normalise(image))
        loss += loss_function(output, mask).double() * len(image)
        probabilities = torch.sigmoid(read_output(output).logits.float())
        for i, index in enumerate(batch.index.tolist()):
            full_mask = batch.full_masks[i].to(fabric.device, non_blocking=True)
            full = resize_probability(probabilities[i, 0], *full_mask.shape)
            counts[index] = count_levels(to_levels(full), full_mask)
            sizes[index] = torch.tensor(full_mask.shape, dtype=torch.int32)
        shown += _keep(batch, to_levels(probabilities), show)
        behind_batch()
    everything = (counts, sizes.to(fabric.device), loss)
    counts, sizes, loss = (fabric.all_reduce(part, reduce_op="sum") for part in everything)
    counts, sizes = counts.cpu().numpy(), sizes.cpu().numpy()
    histograms = Histograms(np.array(ids), sizes[:, 0], sizes[:, 1], counts[:, 0], counts[:, 1])
    return Validation(histograms, loss.item() / len(ids), shown)


def _keep(batch: ValidBatch, levels: Tensor, show: set[int]) -> list[Shown]:
    return [
        Shown(index, *(pixels[i, 0].cpu().numpy() for pixels in (batch.image, batch.mask, levels)))
        for i, index in enumerate(batch.index.tolist())
        if index in show
    ]
