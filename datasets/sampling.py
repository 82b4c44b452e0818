"""Which images form each batch, and the augmentation seed of each.

Order and seeds depend only on (seed, fold, stage, epoch, image): a resumed run needs no random
state, and the pixels do not depend on the number of workers or processes.
"""

import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler


def derive_seed(*parts: int | str) -> int:
    """Hash integers and strings into one 63-bit seed, the same on every machine."""
    numbers = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in parts]
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Batch sampler of (index, seed) for one process; no image comes twice in an epoch.

    Without a share of positives, an epoch has every image once. With one, it has every positive
    once, and as many empty images as the share allows, redrawn in each epoch.

    A batch of `batch_size` is split over the processes. A last batch of less than two images per
    process is merged with the batch before it, or balanced with it, because batch norm on 1x1
    features cannot train on a single image.

    Args:
        ids: image ids, in the order of the data set.
        batch_size: images per batch, over all processes.
        seed_parts: (seed, fold, stage).
        rank: index of this process.
        world_size: number of processes.
        positive: ids of the positives.
        positive_share_at: returns the share of positives in an epoch (from 0); None for all images.
    """

    def __init__(
        self,
        ids: list[str],
        batch_size: int,
        seed_parts: tuple[int, ...],
        rank: int = 0,
        world_size: int = 1,
        positive: frozenset[str] = frozenset(),
        positive_share_at: Callable[[int], float | None] = lambda epoch: None,
    ):
        self.ids = ids
        self.batch_size = batch_size
        self.seed_parts = seed_parts
        self.rank = rank
        self.world_size = world_size
        self.positive_share_at = positive_share_at
        self.epoch = 0
        is_positive = np.array([name in positive for name in ids], dtype=bool)
        self._positives, self._empty = np.flatnonzero(is_positive), np.flatnonzero(~is_positive)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch (from 0) of the next iteration."""
        self.epoch = epoch

    def images(self, epoch: int) -> int:
        """Return the number of images in an epoch (from 0), over all processes."""
        return len(self._positives) + self._count_empty(epoch)

    def sizes(self, epoch: int | None = None) -> list[int]:
        """Return the number of images in each batch of an epoch, over all processes.

        Args:
            epoch: from 0; None for the one set by `set_epoch`.
        """
        images = self.images(self.epoch if epoch is None else epoch)
        ends = [*range(self.batch_size, images, self.batch_size), images]
        sizes = np.diff([0, *ends]).tolist()
        minimum = min(2 * self.world_size, self.batch_size)
        if len(sizes) > 1 and sizes[-1] < minimum:
            total = sizes[-2] + sizes[-1]
            sizes[-2:] = [total - total // 2, total // 2] if total >= 2 * minimum else [total]
        return sizes

    def __len__(self) -> int:
        return len(self.sizes())

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in self._batches():
            own = batch[self.rank :: self.world_size]
            yield [(i, derive_seed(*self.seed_parts, self.epoch, self.ids[i])) for i in own]

    def ids_of(self, first: int, end: int) -> list[str]:
        """Return the image ids of batches `first` to `end` - 1 of the epoch, over all processes."""
        return [self.ids[i] for batch in self._batches()[first:end] for i in batch]

    def _batches(self) -> list[list[int]]:
        """Return the indices of each batch, over all processes."""
        order_rng = np.random.default_rng(derive_seed(*self.seed_parts, self.epoch))
        # A separate stream: the order without a share of positives is that of a plain permutation.
        empty_rng = np.random.default_rng(derive_seed(*self.seed_parts, self.epoch, "others"))
        drawn = empty_rng.permutation(self._empty)[: self._count_empty(self.epoch)]
        order = order_rng.permutation(np.sort(np.concatenate((self._positives, drawn))))
        return [part.tolist() for part in np.split(order, np.cumsum(self.sizes())[:-1])]

    def _count_empty(self, epoch: int) -> int:
        """Return the number of empty images in an epoch."""
        share = self.positive_share_at(epoch)
        if share is None:
            return len(self._empty)
        return min(len(self._empty), round(len(self._positives) * (1 - share) / share))


class StepPart(NamedTuple):
    """A batch as part of an optimizer step.

    Attributes:
        step_images: images in the step, over all its batches and processes.
        last: whether the optimizer steps after this batch.
    """

    step_images: int
    last: bool


def plan_steps(sizes: list[int], batches_per_step: int) -> list[StepPart]:
    """Group batches into optimizer steps; the last step may have fewer batches.

    Weighting the mean loss of a batch of n images by n / step_images yields the gradient of the
    mean over all images in the step, however they are split into batches.

    Args:
        sizes: number of images in each batch.
        batches_per_step: batches per optimizer step.

    Returns:
        One part per batch.
    """
    parts = []
    for start in range(0, len(sizes), batches_per_step):
        group = sizes[start : start + batches_per_step]
        parts += [StepPart(sum(group), last=i == len(group) - 1) for i in range(len(group))]
    return parts
