"""The optimizer of a stage, and its schedule."""

from lightning_fabric import Fabric
from torch import nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR

from utils.config import Config, Stage


def build_optimizer(
    module: nn.Module, fabric: Fabric, config: Config, stage: Stage
) -> tuple[Optimizer, CosineAnnealingLR]:
    """Build Adam over all parameters, also the frozen ones, and a cosine over the stage's epochs.

    Args:
        module: the bare network.
        fabric: knows the precision.
        config: weight decay, and whether gradients are clipped.
        stage: learning rate and number of epochs.
    """
    # Fabric cannot clip gradients that a fused optimizer is still to divide by float16's scale.
    scaled = bool(fabric.strategy.precision.state_dict())
    optimizer = Adam(
        module.parameters(),
        lr=stage.lr,
        weight_decay=config.weight_decay,
        fused=not (config.clip_grad_norm and scaled),
    )
    return optimizer, CosineAnnealingLR(optimizer, T_max=stage.epochs, eta_min=0)
