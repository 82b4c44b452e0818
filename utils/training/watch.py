"""Looks after a pass over training images: a loss that is not finite, and signals to stop."""

from collections.abc import Callable

import torch
from lightning_fabric import Fabric
from torch import Tensor

from utils.signals import Stopped

READ_EVERY = 20
"""Batches between two readings, each of which makes the host wait for the device."""
_NONE = torch.iinfo(torch.int64).max


class NotFinite(Exception):
    """A loss was not a finite number.

    Attributes:
        first: number of its batch.
        since: first batch behind the last good reading.
        until: one behind the last batch that was trained on.
    """

    def __init__(self, first: int, since: int, until: int):
        super().__init__(f"the loss of batch {first} is not a finite number")
        self.first = first
        self.since = since
        self.until = until


class Watch:
    """Follows the losses on the device and reads them now and then.

    Args:
        fabric: knows device and processes.
        batches: how many there are in the pass.
        told_to_stop: says whether this process is to stop.
    """

    def __init__(self, fabric: Fabric, batches: int, told_to_stop: Callable[[], bool]):
        self.fabric = fabric
        self.batches = batches
        self.told_to_stop = told_to_stop
        self._since = 0
        self._first_bad = torch.full((), _NONE, device=fabric.device)

    def follow(self, batch: int, loss: Tensor) -> None:
        """Note on the device whether the loss of a batch is finite; the host does not wait."""
        bad = torch.where(torch.isfinite(loss.detach()), _NONE, batch)
        self._first_bad = torch.minimum(self._first_bad, bad)

    def look(self, batch: int) -> None:
        """Look, behind an optimizer step whose last batch this was, whether to go on.

        One process stops behind the very step. Several stop at a reading, where they agree on it:
        one that left alone would keep the others waiting for it.

        Raises:
            NotFinite: a loss since the last reading was not finite, in any process.
            Stopped: this process, or another that trains with it, was told to stop.
        """
        if self.fabric.world_size == 1 and self.told_to_stop():
            raise Stopped
        done = batch + 1
        if done == self.batches or done // READ_EVERY > self._since // READ_EVERY:
            stop = torch.tensor(int(self.told_to_stop()), device=self.fabric.device)
            both = torch.stack((-self._first_bad, stop))
            negated, stop = self.fabric.all_reduce(both, reduce_op="max").tolist()
            if -negated != _NONE:
                raise NotFinite(-negated, self._since, done)
            if stop:
                raise Stopped
            self._since = done
