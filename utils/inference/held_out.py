"""Predict the images that the networks of a fold have not learned from, and keep what a rule needs.

Thresholds are chosen on what this finds, so it predicts as `utils.prediction` does with the same
networks.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from datasets.loaders import start_worker
from datasets.siim import Pixels
from utils.console import say
from utils.distributed import gather
from utils.errors import InputError
from utils.inference.ensemble import Blend
from utils.inference.out_of_fold import Row, collect, describe_image
from utils.parallel import in_order
from utils.postprocessing.components import MOST
from utils.postprocessing.histograms import Histograms


class HeldOutBatch(NamedTuple):
    """A batch of images whose truth is known.

    Attributes:
        positions: B positions in the data set.
        images: for each view, [B,1,S,S] uint8 grey, preprocessed.
        masks: B masks, uint8 [H,W] of 0 and 1, at the images' original sizes.
    """

    positions: list[int]
    images: list[Tensor]
    masks: list[Tensor]


class HeldOutImages(Dataset):
    """`dataset[index]` -> index, the image for each view, and its mask at the original size.

    Args:
        pixels: the same images in the same order, for each view.
    """

    def __init__(self, pixels: Sequence[Pixels]):
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels[0])

    def __getitem__(self, index: int) -> tuple[int, list[Tensor], Tensor]:
        """Return index, images uint8 [1,S,S] and the mask uint8 [H,W]."""
        triples = [view.triple(index) for view in self.pixels]
        images = [torch.from_numpy(image)[None] for image, _, _ in triples]
        return index, images, torch.from_numpy(triples[0][2])


def predict_held_out(
    fabric: Fabric,
    blend: Blend,
    pixels: Sequence[Pixels],
    ids: Sequence[str],
    batch_size: int,
    num_workers: int,
) -> Histograms:
    """Predict images of a fold and measure the maps at their original sizes.

    Each process predicts its share, and measures it in threads while the device goes on.

    Args:
        fabric: knows device and processes.
        blend: networks that have not learned from these images.
        pixels: the images, for each of `blend.views`.
        ids: of the images, in the order of `pixels`.
        batch_size: images at once on each device.
        num_workers: processes that load images, for each device.

    Returns:
        The measures in the order of `ids`, the same in every process.

    Raises:
        InputError: an image cannot be read, or a network gives what is no probability.
    """
    loader = DataLoader(
        HeldOutImages(pixels),
        batch_size,
        sampler=range(fabric.global_rank, len(ids), fabric.world_size),
        num_workers=num_workers,
        collate_fn=_collate,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=start_worker,
    )
    rows = in_order(lambda item: describe_image(*item), _predict(fabric, blend, loader, ids))
    bar = tqdm(
        rows,
        "predict out of fold",
        len(loader.sampler),
        unit="image",
        leave=False,
        disable=not fabric.is_global_zero,
    )
    measured = gather(fabric, list[Row](bar))
    _warn_of_crowded(measured)
    return collect(ids, measured)


def _predict(
    fabric: Fabric, blend: Blend, loader: DataLoader, ids: Sequence[str]
) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray | None, float | None]]:
    """Yield what `describe_image` takes, image by image."""
    for batch in loader:
        images = [part.to(fabric.device, non_blocking=True) for part in batch.images]
        wholes = blend(images, [tuple(mask.shape) for mask in batch.masks])
        for position, mask, whole in zip(batch.positions, batch.masks, wholes, strict=True):
            name = ids[position]
            try:
                whole.check()
            except InputError as error:
                raise InputError(f"image {name}: {error}") from error
            levels, deciding = whole.levels()
            yield name, levels, mask.numpy(), deciding, whole.presence


def _warn_of_crowded(rows: list[Row]) -> None:
    crowded = sum(row.components is None for row in rows)
    if crowded:
        say(
            f"warning: the maps of {crowded} of {len(rows)} images have more than {MOST} components"
            " each; thresholds are searched without component filters"
        )


def _collate(items: list[tuple[int, list[Tensor], Tensor]]) -> HeldOutBatch:
    positions, images, masks = zip(*items, strict=True)
    stacked = [torch.stack(part) for part in zip(*images, strict=True)]
    return HeldOutBatch(list(positions), stacked, list(masks))
