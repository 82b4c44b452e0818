"""Data loaders of a stage for one process: images and masks, uint8 [B,1,S,S]."""

import itertools
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, Dataset

from datasets.augmentation import Augmentation, build_augmentation
from datasets.folds import Fold
from datasets.preprocessing import resize_image, resize_mask, resize_soft_mask
from datasets.sampling import EpochBatches, StepPart, plan_steps
from datasets.sources.base import Pixels, PixelSource
from datasets.workers import Loader
from utils.config.settings import Config
from utils.config.stages import Stage
from utils.errors import InputError

_SOURCE_SIZE = 1024
"""Side of the competition's images, at which --augment_at source augments them."""
_OVERLAYS = 4
"""Number of validation images drawn for TensorBoard."""


class ValidBatch(NamedTuple):
    """A validation batch.

    Attributes:
        positions: [B] int64, indices into the fold's validation images.
        image: [B,1,S,S] uint8 at the stage's size.
        mask: [B,1,S,S] uint8 at the stage's size, as `resize_mask` returns it.
        full_masks: B masks, uint8 [H,W] of 0 and 1, at the images' original sizes.
    """

    positions: Tensor
    image: Tensor
    mask: Tensor
    full_masks: list[Tensor]


class StageData:
    """The images of one fold at one stage's size.

    Args:
        source: the pixels of every image.
        fold: the images to train and to validate on.
        stage: image size, batch size and number of epochs.
        config: seed, augmentation and number of workers.
        rank: index of this process.
        world_size: number of processes.

    Attributes:
        fold: the images.
        seed_parts: (seed, fold, stage), from which order and augmentation are seeded.
        batches: batch sampler of the training images.
        train: loads training batches (image, mask), uint8 [B,1,S,S].
        valid: loads every `world_size`-th validation image, once and in order, as `ValidBatch`.
        overlay_positions: positions of the first positives among these validation images.
    """

    def __init__(
        self,
        source: PixelSource,
        fold: Fold,
        stage: Stage,
        config: Config,
        rank: int = 0,
        world_size: int = 1,
    ):
        if config.seed is None:
            raise ValueError(
                "config.seed is None: choose the seed of the run before loading its data"
            )
        self.fold = fold
        self.seed_parts = config.seed, fold.number, stage.number
        self._stage = stage
        self.batches = EpochBatches(
            fold.train,
            stage.batch_size,
            self.seed_parts,
            rank,
            world_size,
            fold.positive,
            stage.positive_share_at,
        )
        augmentation = build_augmentation(
            config.augmentation if config.augments else "none", config.mask_resize == "soft"
        )
        pixels = source.pixels(fold.train, augmented_size(config, stage))
        self.train = Loader(
            TrainImages(pixels, augmentation, stage.image_size, config.mask_resize),
            self.batches,
            _collate_train,
            config.num_workers,
            keep_workers=True,
        )
        own = range(rank, len(fold.valid), world_size)
        positives = (i for i in own if fold.valid[i] in fold.positive)
        self.overlay_positions = set(itertools.islice(positives, _OVERLAYS))
        self.valid = Loader(
            ValidImages(source.pixels(fold.valid, stage.image_size)),
            BatchSampler(own, max(1, stage.batch_size // world_size), drop_last=False),
            _collate_valid,
            config.num_workers,
            keep_workers=True,
        )

    def step_parts(self, epoch: int) -> list[StepPart]:
        """Assign each training batch of an epoch (from 0) to an optimizer step."""
        parts = plan_steps(self.batches.sizes(epoch), self._stage.batches_per_step(epoch))
        paddings = self.batches.padding(epoch)
        return [part._replace(padding=n) for part, n in zip(parts, paddings, strict=True)]

    def count_steps(self) -> int:
        """Return the number of optimizer steps in the stage."""
        epochs = range(self._stage.epochs)
        return sum(part.last for epoch in epochs for part in self.step_parts(epoch))


def augmented_size(config: Config, stage: Stage) -> int:
    """Return the side in pixels of the images that are augmented for a stage."""
    if config.augments and config.augment_at == "source":
        return max(_SOURCE_SIZE, stage.image_size)
    return stage.image_size


class TrainImages(Dataset):
    """Training images: `dataset[index, seed]` -> image and mask.

    Args:
        pixels: the images of the fold.
        augmentation: applied to image and mask, if given.
        size: height and width of the result in pixels; None for those of `pixels`.
        mask_resize: method of `resize_mask`, that of `pixels`.
    """

    def __init__(
        self,
        pixels: Pixels,
        augmentation: Augmentation | None,
        size: int | None = None,
        mask_resize: str = "nearest",
    ):
        self.pixels = pixels
        self.augmentation = augmentation
        self.size = size
        self.mask_resize = mask_resize

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return image and mask, both uint8 [1,S,S]; the mask as `resize_mask` does."""
        index, seed = item
        image, mask = self.pixels.pair(index)
        if self.augmentation is not None:
            image, mask = self.augmentation(image, mask, seed)
        if self.size is not None and self.size != len(image):
            image, mask = self._resize(image, mask, self.size)
        return _to_tensor(image), _to_tensor(mask)

    def _resize(
        self, image: np.ndarray, mask: np.ndarray, size: int
    ) -> tuple[np.ndarray, np.ndarray]:
        if self.mask_resize == "soft":
            return resize_image(image, size), resize_soft_mask(mask, size)
        return resize_image(image, size), resize_mask(mask, size, self.mask_resize)


class ValidImages(Dataset):
    """Validation images: `dataset[index]` -> index, image, mask, mask at the original size."""

    def __init__(self, pixels: Pixels):
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[int, Tensor, Tensor, Tensor]:
        """Return index, image and mask uint8 [1,S,S], and the mask uint8 [H,W]."""
        image, mask, full_mask = self.pixels.triple(index)
        return index, _to_tensor(image), _to_tensor(mask), torch.from_numpy(full_mask)


def check_positives(fold: Fold, root: str) -> None:
    """Check that a fold has positives to train on and to validate on.

    Every stage uses the images of the fold, or its positives. Without positives, predicting no mask
    anywhere has a Dice of 1, and a network learns nothing else.

    Args:
        fold: the images.
        root: the data set's folder, to name in errors.

    Raises:
        InputError: the data set or a part of the fold has none.
    """
    anyway = "or train all the same with --allow_empty true"
    if not fold.positive:
        raise InputError(
            f"no mask in {root}/train_mask has a pixel: none of the {len(fold.train + fold.valid)} "
            "images is positive. Check the masks and the csv that they were prepared from (python "
            f"-m datasets.prepare --images DIR --rle CSV), {anyway}"
        )
    positives = fold.only_positives()
    for found, ids, what in (
        (positives.train, fold.train, "train on"),
        (positives.valid, fold.valid, "validate on"),
    ):
        if not found:
            raise InputError(
                f"fold {fold.number} has no positive among its {len(ids)} images to {what}; the "
                f"{len(fold.positive)} positives of {root} are all in its other part. Use "
                f"train_sfold.py, which spreads positives evenly, or fewer --n_splits, {anyway}"
            )


def check_batch_split(stage: Stage, fold: Fold, processes: int) -> None:
    """Check that a stage's batches can be split over the processes.

    Args:
        stage: the stage.
        fold: its images.
        processes: number of processes.

    Raises:
        InputError: the batch size is not divisible, or there are too few images or positives.
    """
    if stage.batch_size % processes:
        raise InputError(
            f"--batch_size_stage{min(stage.number, 2)} {stage.batch_size} is not divisible by the "
            f"number of processes, {processes}; use a multiple of it"
        )
    needs_positives = stage.positives_only or stage.positive_share is not None
    positives = fold.only_positives()
    if needs_positives and not (positives.train and positives.valid):
        raise InputError(
            f"stage {stage.number} needs positives, but fold {fold.number} has "
            f"{len(positives.train)} to train on and {len(positives.valid)} to validate on; use "
            "fewer folds, or train_sfold.py, which spreads positives evenly"
        )
    chosen = positives if stage.positives_only else fold
    batches = EpochBatches(
        chosen.train, stage.batch_size, (), 0, processes, fold.positive, stage.positive_share_at
    )
    images = min(batches.images(epoch) for epoch in range(stage.epochs))
    if images < 2 * processes:
        raise InputError(
            f"{images} training images are too few for {processes} processes; use fewer --devices"
        )


def _collate_train(items: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    images, masks = zip(*items, strict=True)
    return torch.stack(images), torch.stack(masks)


def _collate_valid(items: list[tuple[int, Tensor, Tensor, Tensor]]) -> ValidBatch:
    positions, image, mask, full_masks = zip(*items, strict=True)
    return ValidBatch(
        torch.tensor(positions), torch.stack(image), torch.stack(mask), list(full_masks)
    )


def _to_tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels))[None]
