"""The prediction loop with torch: batch -> blend -> one full-size map per image."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import cast

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.data import BatchSampler, Dataset

from datasets.workers import Loader
from utils.inference.ensemble import Blend
from utils.inference.images import ImageFiles, LoadedBatch, LoadedImage, collate, predict_files
from utils.inference.maps import Batch, Item, LevelMaps
from utils.inference.pictures import Pictures
from utils.inference.segmentations import Segmentations
from utils.inference.submission import Prediction, Problem
from utils.postprocessing.rule import PostProcess


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
) -> Iterator[tuple[Item, LevelMaps]]:
    """Predict a batch; yield each image with its maps at the original size, one at a time.

    Args:
        fabric: the device.
        blend: predicts the batch.
        batch: the images for `blend.views`.
    """
    images = [view.to(fabric.device, non_blocking=True) for view in batch.images]
    for item, maps in zip(batch.items, blend(images, batch.sizes), strict=True):
        yield item, maps.to_level_maps()


def open_loader(dataset: ImageFiles, batch_size: int, num_workers: int) -> Loader:
    """Load `LoadedBatch`es of at most `batch_size` images, in order."""
    positions, items = range(len(dataset)), cast(Dataset, dataset)
    return open_prediction_loader(items, batch_size, num_workers, _collate_tensors, positions)


def predict_images(
    fabric: Fabric,
    blend: Blend,
    loader: Loader,
    rule: PostProcess,
    pictures: Pictures,
    skip_bad: bool,
    only_read: bool,
    segmentations: Segmentations | None = None,
) -> tuple[list[Prediction], list[Problem]]:
    """Predict the images of a loader on a device; see `predict_files`."""
    predict = partial(predict_batch, fabric, blend)
    total, shown = len(cast(ImageFiles, loader.dataset)), fabric.is_global_zero
    return predict_files(
        predict, loader, total, rule, pictures, skip_bad, only_read, shown, segmentations
    )


def _collate_tensors(items: list[LoadedImage | Problem]) -> LoadedBatch:
    batch, problems = collate(items)
    images = [torch.from_numpy(view) for view in batch.images]
    return LoadedBatch(batch._replace(images=images), problems)
