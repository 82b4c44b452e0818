"""Loaders of a stage: uint8 [B,1,S,S] images and masks for one process of all that train."""

import signal
from typing import NamedTuple

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datasets.augmentation import build_augmentation
from datasets.folds import Fold
from datasets.sampling import EpochBatches
from datasets.siim import Source, TrainImages, ValidImages
from utils.config.settings import Config
from utils.config.stages import Stage
from utils.errors import InputError


class ValidBatch(NamedTuple):
    """A batch to validate on.

    Attributes:
        index: [B] int64, positions in the data set.
        image: [B,1,S,S] uint8 at the stage's size.
        mask: [B,1,S,S] uint8 of 0 and 1 at the stage's size.
        full_masks: B masks, uint8 [H,W] of 0 and 1, at the images' original sizes.
    """

    index: Tensor
    image: Tensor
    mask: Tensor
    full_masks: list[Tensor]


class StageData:
    """The images of one fold at one stage's size.

    Args:
        source: the pixels of every image.
        fold: the images to learn from and to validate on.
        stage: its image and batch size.
        config: augmentation and number of workers.
        seed_parts: (seed, fold, stage), on which order and augmentation depend.
        rank: which process this is.
        world_size: number of processes.

    Attributes:
        fold: the images.
        batches: which images make up each training batch.
        train: loads (image, mask) of the batches, uint8 [B,1,S,S].
        valid: loads every `world_size`-th validation image, once and in order, as `ValidBatch`.
    """

    def __init__(
        self,
        source: Source,
        fold: Fold,
        stage: Stage,
        config: Config,
        seed_parts: tuple[int, ...],
        rank: int,
        world_size: int,
    ):
        self.fold = fold
        self.batches = EpochBatches(
            fold.train,
            stage.batch_size,
            seed_parts,
            rank,
            world_size,
            fold.positive,
            stage.share_of,
        )
        augmentation = build_augmentation(
            config.augmentation if config.augmentation_flag else "none"
        )
        workers = _worker_settings(config.num_workers)
        self.train = DataLoader(
            TrainImages(source.pixels(fold.train, stage.image_size), augmentation),
            batch_sampler=self.batches,
            **workers,
        )
        self.valid = DataLoader(
            ValidImages(source.pixels(fold.valid, stage.image_size)),
            batch_size=max(1, stage.batch_size // world_size),
            sampler=range(rank, len(fold.valid), world_size),
            collate_fn=_collate_valid,
            **workers,
        )


def check_dealing(stage: Stage, fold: Fold, processes: int) -> None:
    """Refuse what cannot be dealt out over the processes.

    Args:
        stage: its batch size, and which images it takes.
        fold: the images.
        processes: how many there are.

    Raises:
        InputError: the batch is not divisible, or there are too few images, or no positives.
    """
    if stage.batch_size % processes:
        raise InputError(
            f"--batch_size_stage{min(stage.number, 2)} {stage.batch_size} cannot be dealt out "
            f"evenly over {processes} processes; use a multiple of {processes}"
        )
    needs_positives = stage.positives_only or stage.positive_share is not None
    positives = fold.only_positives()
    if needs_positives and not (positives.train and positives.valid):
        raise InputError(
            f"stage {stage.number} takes a share of images with a mask, but fold {fold.number} has "
            f"{len(positives.train)} to learn from and {len(positives.valid)} to validate on"
        )
    chosen = positives if stage.positives_only else fold
    batches = EpochBatches(
        chosen.train, stage.batch_size, (), 0, processes, fold.positive, stage.share_of
    )
    images = min(batches.images(epoch) for epoch in range(stage.epochs))
    if images < 2 * processes:
        raise InputError(f"{images} training images are too few for {processes} processes")


def _collate_valid(items: list[tuple[int, Tensor, Tensor, Tensor]]) -> ValidBatch:
    index, image, mask, full_masks = zip(*items, strict=True)
    return ValidBatch(torch.tensor(index), torch.stack(image), torch.stack(mask), list(full_masks))


def _worker_settings(num_workers: int) -> dict:
    return {
        "num_workers": num_workers,
        "persistent_workers": num_workers > 0,
        "pin_memory": torch.cuda.is_available(),
        "worker_init_fn": start_worker,
    }


def start_worker(_: int) -> None:
    """Keep OpenCV from starting threads of its own, and leave Ctrl-C to the training process."""
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
