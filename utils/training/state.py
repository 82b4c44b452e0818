"""A network in training, with all that changes along with it: optimizer, schedule, average."""

import torch
from lightning_fabric import Fabric
from torch import nn

from utils.config.settings import Config
from utils.config.stages import Stage
from utils.training.ema import MovingAverage
from utils.training.optim import Schedule
from utils.training.optimizer import build_optimizer

_FRESH_SCALER = torch.amp.GradScaler("cpu").state_dict()
"""Where the scaling of float16 losses begins in every stage; other precisions have none."""


class Learner:
    """What a stage trains, from fresh optimizer, schedule and average on.

    Args:
        fabric: devices and precision.
        module: the bare network with the weights to start from, on its device.
        config: settings of the run.
        stage: what to train.
        steps: optimizer steps of the whole stage.

    Attributes:
        module: the bare network.
        optimizer: set up by `fabric`.
        schedule: of the learning rate.
    """

    def __init__(self, fabric: Fabric, module: nn.Module, config: Config, stage: Stage, steps: int):
        self.module = module
        self._optimizer = build_optimizer(module, fabric, config, stage)
        self.optimizer = fabric.setup_optimizers(self._optimizer)
        self.schedule = Schedule(self._optimizer, config, stage, steps)
        self._average = MovingAverage(module, config.ema) if config.ema else None
        self._precision = fabric.strategy.precision
        self._precision.load_state_dict(_FRESH_SCALER)

    @property
    def judged(self) -> nn.Module:
        """The bare network with the weights to validate and to keep."""
        return self.module if self._average is None else self._average.module

    def end_step(self) -> None:
        """Follow an optimizer step."""
        self.schedule.end_step()
        if self._average is not None:
            self._average.update(self.module)

    def content(self) -> dict:
        """Return what a checkpoint keeps: `state_dict` holds the weights of `judged`.

        With a moving average, `live` holds the weights that training goes on with and the number of
        steps in the average; it is None otherwise.
        """
        live = None
        if self._average is not None:
            live = {"state_dict": self.module.state_dict(), "steps": self._average.steps}
        return {
            "state_dict": self.judged.state_dict(),
            "live": live,
            "optimizer": self._optimizer.state_dict(),
            "scheduler": self.schedule.state_dict(),
            "scaler": self._precision.state_dict(),
        }

    def resume(self, content: dict) -> None:
        """Go on where `content` was taken."""
        if self._average is None:
            self.module.load_state_dict(content["state_dict"])
        else:
            self.module.load_state_dict(content["live"]["state_dict"])
            self._average.load(content["state_dict"], content["live"]["steps"])
        self._optimizer.load_state_dict(content["optimizer"])
        self.schedule.load_state_dict(content["scheduler"])
        self._precision.load_state_dict(content["scaler"])
