"""The prediction loop: batch -> blend -> one full-size map per image."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.data import BatchSampler, Dataset

from datasets.workers import Loader
from utils.inference.ensemble import Blend, FullSizeMaps

Item = TypeVar("Item")


class Batch(NamedTuple, Generic[Item]):
    """A batch to predict.

    Attributes:
        images: for each view, [B,1,S,S] uint8 grey, preprocessed.
        sizes: height and width of the B originals in pixels.
        items: B objects that identify the images to the caller.
    """

    images: list[Tensor]
    sizes: list[tuple[int, int]]
    items: list[Item]


def make_batch(
    images: Iterable[Sequence[Tensor]], sizes: Sequence[tuple[int, int]], items: Sequence[Item]
) -> Batch[Item]:
    """Stack images into a batch.

    Args:
        images: the views of each image, uint8 [1,S,S].
        sizes: height and width of each original in pixels.
        items: object that identifies each image to the caller.
    """
    return Batch([torch.stack(view) for view in zip(*images, strict=True)], [*sizes], [*items])


def open_prediction_loader(
    dataset: Dataset,
    batch_size: int,
    num_workers: int,
    collate: Callable,
    positions: Sequence[int],
) -> Loader:
    """Load batches in order, in worker processes.

    Args:
        dataset: the images.
        batch_size: images per batch.
        num_workers: maximum number of worker processes; fewer if there are fewer batches.
        collate: turns a list of items into a batch.
        positions: indices of the items to load, in order.
    """
    batches = BatchSampler(positions, batch_size, drop_last=False)
    return Loader(dataset, batches, collate, min(num_workers, len(batches)))


def predict_batch(
    fabric: Fabric, blend: Blend, batch: Batch[Item]
) -> Iterator[tuple[Item, FullSizeMaps]]:
    """Predict a batch; yield each image with its maps, one at a time.

    Args:
        fabric: the device.
        blend: predicts the batch.
        batch: the images for `blend.views`.
    """
    images = [view.to(fabric.device, non_blocking=True) for view in batch.images]
    yield from zip(batch.items, blend(images, batch.sizes), strict=True)
