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

    A batch is split over the processes and never larger than `batch_size`. The left-over images of
    an epoch are spread as `split_images` describes. A process that has fewer than two images in a
    batch nevertheless, or none, while the batch size gives it more, is given images of another
    batch after its own: padding, which takes part in batch norm (which on 1x1 features cannot train
    on a single image) but not in the loss.

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
        return split_images(images, self.batch_size, self.world_size)

    def padding(self, epoch: int | None = None) -> list[int]:
        """Return how many images at the end of each batch of this process are padding.

        Args:
            epoch: from 0; None for the one set by `set_epoch`.
        """
        least = min(2, self.batch_size // self.world_size)
        own = (len(range(self.rank, size, self.world_size)) for size in self.sizes(epoch))
        return [max(0, least - count) for count in own]

    def __len__(self) -> int:
        return len(self.sizes())

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        batches = [batch[self.rank :: self.world_size] for batch in self._batches()]
        for number, (own, missing) in enumerate(zip(batches, self.padding(), strict=True)):
            # Of the batch before; the first batch takes those of the last.
            padded = own + batches[number - 1][:missing]
            yield [(i, derive_seed(*self.seed_parts, self.epoch, self.ids[i])) for i in padded]

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


def split_images(images: int, batch_size: int, processes: int) -> list[int]:
    """Return the sizes of the batches of an epoch, none of them above `batch_size`.

    All are full but those at the end: as few of them as possible share the shortage, so that every
    process has at least two images of each batch. Where that is impossible, as for five images in
    batches of two, every process has at least one where that is possible, and the last batch is
    left as it is otherwise.

    Args:
        images: images in the epoch.
        batch_size: images per batch, over all processes; a multiple of `processes`.
        processes: number of processes.
    """
    full, rest = divmod(images, batch_size)
    sizes = [batch_size] * full + [rest] * (rest > 0)
    for least in (2 * processes, processes):
        for count in range(1, len(sizes) + 1):
            total = (count - 1) * batch_size + sizes[-1]
            if total // count >= least:
                larger = total % count
                return sizes[:-count] + [total // count + (i < larger) for i in range(count)]
    return sizes


class StepPart(NamedTuple):
    """A batch as part of an optimizer step.

    Attributes:
        step_images: images in the step, over all its batches and processes.
        last: whether the optimizer steps after this batch.
        padding: images at the end of this process's batch that do not count.
    """

    step_images: int
    last: bool
    padding: int = 0


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
