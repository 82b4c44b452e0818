"""A moving average of a network's weights."""

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class MovingAverage:
    """The exponential moving average of weights and batch-norm statistics.

    While few steps are behind it the decay is smaller, (1 + steps) / (10 + steps), so that the
    random weights of the start do not linger.
    Source: tensorflow.org, train/ExponentialMovingAverage, `num_updates`.

    Args:
        module: the bare network, on its device; later changes of it do not show here.
        decay: from 0 to 1, the part of the average that a step leaves.
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
        """Take in the weights of `module`, behind an optimizer step."""
        self._averaged.update_parameters(module)
        self.steps += 1

    def load(self, state_dict: dict, steps: int) -> None:
        """Go on from averaged weights with `steps` behind them."""
        self.module.load_state_dict(state_dict)
        self._averaged.n_averaged.fill_(steps)
        self.steps = steps

    def _average(self, averaged: list[Tensor], now: list[Tensor], _: Tensor) -> None:
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        get_ema_multi_avg_fn(decay)(averaged, now, None)
