"""A network in training together with its optimizer, schedule and moving average."""

from dataclasses import asdict
from typing import cast

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.optim import Optimizer

from utils.config.settings import Config
from utils.config.stages import Stage
from utils.distributed import broadcast_buffers, check_weights_equal
from utils.training.ema import MovingAverage
from utils.training.optim import Schedule, build_optimizer, start_momentum

_INITIAL_SCALER = torch.amp.GradScaler("cpu").state_dict()
"""State of the float16 loss scaler at the start of every stage; other precisions have none."""


class TrainingState:
    """Network, optimizer, schedule and moving average of a stage; all but the network start fresh.

    Args:
        fabric: devices and precision.
        module: the bare network with its starting weights, on its device.
        config: settings of the run.
        stage: the stage.
        steps: optimizer steps of the entire stage.

    Attributes:
        module: the bare network.
        optimizer: set up by `fabric`.
        schedule: of the learning rate.
    """

    def __init__(self, fabric: Fabric, module: nn.Module, config: Config, stage: Stage, steps: int):
        self.module = module
        self._optimizer = build_optimizer(module, fabric, config, stage)
        self.optimizer = cast(Optimizer, fabric.setup_optimizers(self._optimizer))
        self.schedule = Schedule(self._optimizer, config, stage, steps)
        self._average = MovingAverage(module, config.ema) if config.ema else None
        self._precision = fabric.strategy.precision
        self._precision.load_state_dict(_INITIAL_SCALER)

    @property
    def eval_module(self) -> nn.Module:
        """The bare network with the weights to validate and save."""
        return self.module if self._average is None else self._average.module

    def end_step(self) -> None:
        """Update schedule and EMA."""
        self.schedule.end_step()
        if self._average is not None:
            self._average.update(self.module)

    def checkpoint(
        self, config: Config, fold: int, stage: Stage, epoch: int, kept: list[dict]
    ) -> dict:
        """Return the content of a checkpoint; `state_dict` holds the weights of `eval_module`.

        With a moving average, `live` holds the weights that training continues with and the number
        of steps in the average; otherwise it is None.

        Args:
            config: settings of the run.
            fold: number of the fold.
            stage: the stage.
            epoch: from 0.
            kept: results of the best epochs so far, best first; empty before the first validation.
        """
        live = None
        if self._average is not None:
            live = {"state_dict": self.module.state_dict(), "steps": self._average.steps}
        return {
            "state_dict": self.eval_module.state_dict(),
            "live": live,
            "optimizer": self._optimizer.state_dict(),
            "scheduler": self.schedule.state_dict(),
            "scaler": self._precision.state_dict(),
            "model_type": config.model_type,
            "stage": stage.number,
            "epoch": epoch,
            "fold": fold,
            "best": kept[0] if kept else None,
            "kept": kept,
            "config": asdict(config),
        }

    def broadcast_buffers(self, fabric: Fabric) -> None:
        """Broadcast rank 0's buffers: each process updated its own batch-norm statistics."""
        for module in dict.fromkeys((self.module, self.eval_module)):
            broadcast_buffers(fabric, module)

    def check_equal(self, fabric: Fabric) -> int:
        """Return a checksum of the weights, after comparing it between processes.

        Raises:
            RuntimeError: it differs between processes.
        """
        check_weights_equal(fabric, self.module)
        return check_weights_equal(fabric, self.eval_module)

    def resume(self, content: dict) -> None:
        """Restore the state from a checkpoint."""
        if self._average is None:
            self.module.load_state_dict(content["state_dict"])
        else:
            self.module.load_state_dict(content["live"]["state_dict"])
            self._average.load(content["state_dict"], content["live"]["steps"])
        self._optimizer.load_state_dict(content["optimizer"])
        # Checkpoints of older versions have no momentum for a frozen encoder.
        start_momentum(self._optimizer)
        self.schedule.load_state_dict(content["scheduler"])
        self._precision.load_state_dict(content["scaler"])
