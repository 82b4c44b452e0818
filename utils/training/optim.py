"""The optimizer and the learning-rate schedule of a stage, by name; both are torch's.

| schedule  | learning rate                                                     | updated every |
|-----------|-------------------------------------------------------------------|---------------|
| cosine    | decays from lr to 0 over the stage (arXiv 1608.03983)             | epoch         |
| restarts  | decays from lr to 0 again every `restart_epochs`                  | epoch         |
| one_cycle | rises from lr / 25 to lr in 0.3 of the stage, decays (1708.07120) | step          |
| linear    | stays at lr, falls evenly to 0 over the last `decay_epochs`       | epoch         |

`warmup_epochs` come before all of them but one_cycle and raise the rate to lr linearly.
"""

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    LambdaLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    SequentialLR,
)

from utils.config.settings import Config
from utils.config.stages import Stage


def build_optimizer(module: nn.Module, fabric: Fabric, config: Config, stage: Stage) -> Optimizer:
    """Build Adam, AdamW or SGD over all parameters, including frozen ones.

    Args:
        module: the bare network.
        fabric: precision.
        config: optimizer, weight decay, momentum, and whether gradients are clipped.
        stage: its learning rate.
    """
    # Fabric cannot clip gradients that a fused optimizer has yet to divide by the float16 scale.
    scaled = bool(fabric.strategy.precision.state_dict())
    fused = not (config.clip_grad_norm and scaled)
    parameters, lr, decay = module.parameters(), stage.lr, config.weight_decay
    if config.optimizer == "sgd":
        sgd = SGD(parameters, lr=lr, momentum=config.momentum, weight_decay=decay, fused=fused)
        start_momentum(sgd)
        return sgd
    if config.optimizer == "adamw":
        return AdamW(parameters, lr=lr, weight_decay=decay, fused=fused)
    return Adam(parameters, lr=lr, weight_decay=decay, fused=fused)


def start_momentum(optimizer: Optimizer) -> None:
    """Give each parameter of SGD without momentum one of zero, which its first step adds to.

    Fused SGD cannot step parameters with and without momentum together, as after a thaw.
    """
    if isinstance(optimizer, SGD):
        for group in optimizer.param_groups:
            for parameter in group["params"] if group["momentum"] else ():
                state = optimizer.state[parameter]
                if state.get("momentum_buffer") is None:
                    state["momentum_buffer"] = torch.zeros_like(parameter)


class Schedule:
    """The learning-rate schedule of a stage, updated after every step and every epoch.

    Args:
        optimizer: the optimizer to adjust.
        config: warm-up, restarts and decay.
        stage: name of the schedule, learning rate and number of epochs.
        steps: optimizer steps of the entire stage.
    """

    def __init__(self, optimizer: Optimizer, config: Config, stage: Stage, steps: int):
        self._by_step: OneCycleLR | None = None
        if stage.schedule == "one_cycle":
            self._by_step = OneCycleLR(
                optimizer, max_lr=stage.lr, total_steps=steps, cycle_momentum=False
            )
        self._scheduler = self._by_step or _by_epoch(optimizer, config, stage)

    @property
    def lr(self) -> float:
        """Current learning rate."""
        return float(self._scheduler.get_last_lr()[0])

    def end_step(self) -> None:
        """Update after an optimizer step."""
        # After a resume with a different number of processes, there may be more steps than planned.
        if self._by_step and self._by_step.last_epoch < self._by_step.total_steps - 1:
            self._by_step.step()

    def end_epoch(self) -> None:
        """Update after an epoch."""
        if not self._by_step:
            self._scheduler.step()

    def state_dict(self) -> dict:
        """Return the state as plain types."""
        return self._scheduler.state_dict()

    def load_state_dict(self, state: dict) -> None:
        """Restore a state."""
        self._scheduler.load_state_dict(state)


def _by_epoch(optimizer: Optimizer, config: Config, stage: Stage) -> LRScheduler:
    warmup, decay = config.warmup_epochs, config.decay_epochs
    epochs = stage.epochs - warmup
    main: LRScheduler
    if stage.schedule == "restarts" and config.restart_epochs is not None:
        main = CosineAnnealingWarmRestarts(optimizer, T_0=config.restart_epochs)
    elif stage.schedule == "linear" and decay is not None:
        main = LambdaLR(optimizer, lambda epoch: min(1.0, (epochs - epoch) / decay))
    else:
        main = CosineAnnealingLR(optimizer, T_max=epochs, eta_min=0)
    if not warmup:
        return main
    rise = LinearLR(optimizer, start_factor=1 / (warmup + 1), total_iters=warmup)
    return SequentialLR(optimizer, [rise, main], milestones=[warmup])
