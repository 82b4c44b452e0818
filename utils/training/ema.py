"""Exponential moving average of a network's weights."""

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

Tensors = tuple[Tensor, ...] | list[Tensor]


class MovingAverage:
    """Exponential moving average of weights and batch-norm statistics.

    The decay is at most (1 + steps) / (10 + steps), so that the initial weights are forgotten
    quickly. Source: tensorflow.org, train/ExponentialMovingAverage, `num_updates`.

    Args:
        module: the bare network, on its device; it is copied.
        decay: from 0 to 1, the weight of the previous average in an update.
    """

    def __init__(self, module: nn.Module, decay: float):
        self.decay = decay
        self.steps = 0
        self._averaged = AveragedModel(module, multi_avg_fn=self._average, use_buffers=True)

    @property
    def module(self) -> nn.Module:
        """The network with the averaged weights."""
        return self._averaged.module

    def update(self, module: nn.Module) -> None:
        """Add the weights of `module`, after an optimizer step."""
        self._averaged.update_parameters(module)
        self.steps += 1

    def load(self, state_dict: dict, steps: int) -> None:
        """Restore an average of `steps` updates."""
        self.module.load_state_dict(state_dict)
        self._averaged.n_averaged.fill_(steps)
        self.steps = steps

    def _average(self, averaged: Tensors, current: Tensors, _: Tensor | int) -> None:
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        get_ema_multi_avg_fn(decay)(averaged, current, 0)
