"""The optimizer of a stage."""

from lightning_fabric import Fabric
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from utils.config.settings import Config
from utils.config.stages import Stage


def build_optimizer(module: nn.Module, fabric: Fabric, config: Config, stage: Stage) -> Optimizer:
    """Build Adam, AdamW or SGD with momentum over all parameters, also the frozen ones.

    Args:
        module: the bare network.
        fabric: knows the precision.
        config: which one, weight decay, momentum, and whether gradients are clipped.
        stage: learning rate.
    """
    # Fabric cannot clip gradients that a fused optimizer is still to divide by float16's scale.
    scaled = bool(fabric.strategy.precision.state_dict())
    settings = {
        "lr": stage.lr,
        "weight_decay": config.weight_decay,
        "fused": not (config.clip_grad_norm and scaled),
    }
    if config.optimizer == "sgd":
        return SGD(module.parameters(), momentum=config.momentum, **settings)
    return {"adam": Adam, "adamw": AdamW}[config.optimizer](module.parameters(), **settings)
