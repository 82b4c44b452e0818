"""One pass over the validation images: the loss, and a histogram per image at its original size."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from tqdm import tqdm

from datasets.loaders import ValidBatch
from datasets.preprocessing import fit_mask
from datasets.workers import Loader
from models.interface import NetworkOutput, normalise, read_output
from utils.config.normalisation import IMAGENET, Normalisation
from utils.parallel import map_in_order
from utils.postprocessing.histograms import LEVELS, Histograms
from utils.postprocessing.maps.tensors import count_levels, resize_probability, to_levels
from utils.signals import Stopped
from utils.training.epoch import sum_losses


@dataclass(frozen=True)
class OverlaySample:
    """One image at the stage's size, kept for an overlay in TensorBoard.

    Attributes:
        index: index in the data set.
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
    """Result of a pass over the validation images.

    Attributes:
        histograms: histograms of all images, in the order of the data set, the same in every
            process.
        loss: mean over all images.
        overlay_samples: the requested images that this process predicted.
    """

    histograms: Histograms
    loss: float
    overlay_samples: list[OverlaySample]


@torch.inference_mode()
def validate(
    fabric: Fabric,
    module: nn.Module,
    loader: Loader,
    ids: list[str],
    loss_function: Callable[[NetworkOutput, Tensor], Tensor],
    overlay_positions: set[int],
    stop_requested: Callable[[], bool] = lambda: False,
    normalisation: Normalisation = IMAGENET,
) -> Validation:
    """Predict every image once and count its pixels at every level.

    Each process predicts the images of its loader; the counts are then summed over processes, so
    that no image is missed or counted twice.

    Args:
        fabric: device, precision and processes.
        module: the bare network; with a DDP wrapper, unequal numbers of batches would deadlock.
        loader: yields `ValidBatch`.
        ids: ids of all images, in the order of the data set.
        loss_function: the network's output and the mask -> mean over the batch.
        overlay_positions: indices of the images to keep for overlays.
        stop_requested: returns whether this process should stop. Several processes finish the pass,
            since they could not agree where to stop.
        normalisation: of the images.

    Raises:
        Stopped: the only process was asked to stop.
    """
    module.eval()
    counts = torch.zeros(len(ids), 2, LEVELS, dtype=torch.int32, device=fabric.device)
    sizes = torch.zeros(len(ids), 2, dtype=torch.int32)
    losses, samples = [], []

    def predict() -> Iterator[tuple[int, Tensor, Tensor]]:
        """Yield index, levels and true mask of each image, at its original size."""
        for batch in tqdm(loader, "validate", leave=False, disable=not fabric.is_global_zero):
            image, mask = (
                t.to(fabric.device, non_blocking=True) for t in (batch.image, batch.mask)
            )
            with fabric.autocast():
                output = module(normalise(image, normalisation))
            losses.append(loss_function(output, mask) * len(image))
            probabilities = torch.sigmoid(read_output(output).logits.float())
            for i, index in enumerate(batch.positions.tolist()):
                full_mask = batch.full_masks[i]
                full = resize_probability(probabilities[i, 0], *full_mask.shape)
                yield index, to_levels(full), full_mask
            samples.extend(_samples(batch, to_levels(probabilities), overlay_positions))
            if fabric.world_size == 1 and stop_requested():
                raise Stopped

    # Counted in threads, while the device predicts the next images.
    for index, size, counted in map_in_order(_count, predict()):
        counts[index], sizes[index] = counted, torch.tensor(size, dtype=torch.int32)
    all_counts, all_sizes = (
        torch.as_tensor(fabric.all_reduce(part, reduce_op="sum")).cpu()
        for part in (counts, sizes.to(fabric.device))
    )
    levels, (height, width) = all_counts.numpy(), all_sizes.numpy().T
    histograms = Histograms(np.array(ids), height, width, levels[:, 0], levels[:, 1])
    return Validation(histograms, sum_losses(fabric, losses) / len(ids), samples)


def _count(prediction: tuple[int, Tensor, Tensor]) -> tuple[int, torch.Size, Tensor]:
    index, levels, full_mask = prediction
    return index, levels.shape, count_levels(levels, full_mask.to(levels.device))


def _samples(batch: ValidBatch, levels: Tensor, positions: set[int]) -> list[OverlaySample]:
    return [
        OverlaySample(
            index,
            batch.image[i, 0].numpy(),
            # The batch's own mask may be soft.
            fit_mask(batch.full_masks[i].numpy(), *batch.image.shape[-2:]),
            levels[i, 0].cpu().numpy(),
        )
        for i, index in enumerate(batch.positions.tolist())
        if index in positions
    ]
