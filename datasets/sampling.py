"""Which images make up each batch, and the seed each is augmented with.

Order and seeds depend only on (seed, fold, stage, epoch, image): a resumed run needs no random
state, and any number of workers or processes sees the same pixels.
"""

import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler


def derive_seed(*parts: int | str) -> int:
    """Mix whole numbers and names into one 63-bit seed, the same on every machine."""
    numbers = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in parts]
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (index, seed) for one process, no image twice in an epoch.

    Every image comes once, or, in an epoch with a share of positives, every positive and as many
    of the others, drawn anew, as that share leaves room for.

    A batch of `batch_size` is dealt out over the processes. A left-over too small to give each
    process two images joins the batch before it, or shares it out evenly, because a network that
    normalises 1x1 features cannot train on a single image.

    Args:
        ids: image ids in the order of the data set.
        batch_size: images per step, over all processes.
        seed_parts: (seed, fold, stage).
        rank: which process this is.
        world_size: number of processes.
        positive: ids of the images with a mask.
        share_of: gives the share of positives in an epoch (from 0); None takes every image.
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
        self._positives, self._others = np.flatnonzero(is_positive), np.flatnonzero(~is_positive)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch (from 0) that the next pass draws."""
        self.epoch = epoch

    def images(self, epoch: int) -> int:
        """Return the number of images of an epoch (from 0), over all processes."""
        return len(self._positives) + self._drawn(epoch)

    def sizes(self, epoch: int | None = None) -> list[int]:
        """Return the images of each batch of an epoch, over all processes.

        Args:
            epoch: from 0; the one chosen by `set_epoch` if not given.
        """
        images = self.images(self.epoch if epoch is None else epoch)
        ends = [*range(self.batch_size, images, self.batch_size), images]
        sizes = np.diff([0, *ends]).tolist()
        least = min(2 * self.world_size, self.batch_size)
        if len(sizes) > 1 and sizes[-1] < least:
            both = sizes[-2] + sizes[-1]
            sizes[-2:] = [both - both // 2, both // 2] if both >= 2 * least else [both]
        return sizes

    def __len__(self) -> int:
        return len(self.sizes())

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in self._dealt():
            mine = batch[self.rank :: self.world_size]
            yield [(i, derive_seed(*self.seed_parts, self.epoch, self.ids[i])) for i in mine]

    def ids_of(self, first: int, end: int) -> list[str]:
        """Name the images of the epoch's batches from `first` to before `end`, of all processes."""
        return [self.ids[i] for batch in self._dealt()[first:end] for i in batch]

    def _dealt(self) -> list[list[int]]:
        """Give the indices of each batch, over all processes."""
        generator = np.random.default_rng(derive_seed(*self.seed_parts, self.epoch))
        others = np.random.default_rng(derive_seed(*self.seed_parts, self.epoch, "others"))
        drawn = others.permutation(self._others)[: self._drawn(self.epoch)]
        order = generator.permutation(np.sort(np.concatenate((self._positives, drawn))))
        return [part.tolist() for part in np.split(order, np.cumsum(self.sizes())[:-1])]

    def _drawn(self, epoch: int) -> int:
        """Count the images without a mask that take part in an epoch."""
        share = self.positive_share_at(epoch)
        if share is None:
            return len(self._others)
        return min(len(self._others), round(len(self._positives) * (1 - share) / share))


class StepPart(NamedTuple):
    """The place of a batch in its optimizer step.

    Attributes:
        step_images: images of the whole step, over all its batches and processes.
        last: the step is taken behind this batch.
    """

    step_images: int
    last: bool


def plan_steps(sizes: list[int], batches_per_step: int) -> list[StepPart]:
    """Group batches into optimizer steps, the last group with what is left.

    A loss that is a mean over n images counts n / step_images in its step: the gradient is then
    that of the mean over all images of the step, however they are cut into batches.

    Args:
        sizes: images of each batch.
        group_size: batches per optimizer step.

    Returns:
        A part for each batch.
    """
    parts = []
    for start in range(0, len(sizes), batches_per_step):
        group = sizes[start : start + batches_per_step]
        parts += [StepPart(sum(group), last=i == len(group) - 1) for i in range(len(group))]
    return parts
