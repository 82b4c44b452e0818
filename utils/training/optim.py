"""How the learning rate changes within a stage: torch's schedulers, by name.

| name      | rate                                                                    | stepped by |
|-----------|-------------------------------------------------------------------------|------------|
| cosine    | falls from lr to 0 over the stage (arXiv 1608.03983)                    | epoch      |
| restarts  | falls from lr to 0 again and again, every `restart_epochs`              | epoch      |
| one_cycle | rises from lr / 25 to lr in 0.3 of the stage, falls to 0 (1708.07120)   | step       |

`warmup_epochs` go before cosine and restarts, in which the rate rises to lr in equal steps.
"""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    SequentialLR,
)

from utils.config.settings import Config
from utils.config.stages import Stage


class Schedule:
    """The schedule of a stage, told of every step and every epoch.

    Args:
        optimizer: its rate is changed.
        config: warm-up and restarts.
        stage: name of the schedule, rate and number of epochs.
        steps: optimizer steps of the whole stage.
    """

    def __init__(self, optimizer: Optimizer, config: Config, stage: Stage, steps: int):
        self._by_step = stage.schedule == "one_cycle"
        if self._by_step:
            self._scheduler: LRScheduler = OneCycleLR(
                optimizer, max_lr=stage.lr, total_steps=steps, cycle_momentum=False
            )
        else:
            self._scheduler = _by_epoch(optimizer, config, stage)

    @property
    def lr(self) -> float:
        """The rate of now."""
        return self._scheduler.get_last_lr()[0]

    def end_step(self) -> None:
        """Go on behind an optimizer step."""
        # A resume with another number of processes may cut an epoch into more steps.
        if self._by_step and self._scheduler.last_epoch < self._scheduler.total_steps - 1:
            self._scheduler.step()

    def end_epoch(self) -> None:
        """Go on behind an epoch."""
        if not self._by_step:
            self._scheduler.step()

    def state_dict(self) -> dict:
        """Return where the schedule is, as plain types."""
        return self._scheduler.state_dict()

    def load_state_dict(self, state: dict) -> None:
        """Go on where `state_dict` was taken."""
        self._scheduler.load_state_dict(state)


def _by_epoch(optimizer: Optimizer, config: Config, stage: Stage) -> LRScheduler:
    warmup = config.warmup_epochs
    if stage.schedule == "restarts":
        main: LRScheduler = CosineAnnealingWarmRestarts(optimizer, T_0=config.restart_epochs)
    else:
        main = CosineAnnealingLR(optimizer, T_max=stage.epochs - warmup, eta_min=0)
    if not warmup:
        return main
    rise = LinearLR(optimizer, start_factor=1 / (warmup + 1), total_iters=warmup)
    return SequentialLR(optimizer, [rise, main], milestones=[warmup])
