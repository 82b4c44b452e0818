"""The networks of several folds as one: the mean of their probabilities."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from models import build_model
from models.inputs import normalise
from utils.checkpoint import FoldCheckpoints, load_file, reason_of
from utils.config import Config, load
from utils.errors import InputError


class Ensemble(nn.Module):
    """Mean probability over networks, and over each image and its mirror image.

    Args:
        fabric: knows device and precision.
        networks: [B,3,H,W] float32 -> logits [B,1,H,W]; they are moved to the device and put into
            evaluation mode.
        mirror: predict every image flipped left to right as well.
    """

    def __init__(self, fabric: Fabric, networks: Iterable[nn.Module], mirror: bool):
        super().__init__()
        self.fabric = fabric
        self.networks = nn.ModuleList(networks).eval()
        self.networks.to(fabric.device, memory_format=torch.channels_last)
        self.mirror = mirror

    @torch.inference_mode()
    def forward(self, image: Tensor) -> Tensor:
        """Predict a batch on the device, [B,1,S,S] uint8 grey -> probability [B,1,S,S] float32."""
        probability = self._predict(image)
        if self.mirror:
            probability = (probability + self._predict(image.flip(-1)).flip(-1)) / 2
        return probability

    def _predict(self, image: Tensor) -> Tensor:
        pixels, total = normalise(image), 0.0
        for network in self.networks:
            with self.fabric.autocast():
                logits = network(pixels)
            total = total + torch.sigmoid(logits.float())
        return total / len(self.networks)


def read_settings(run: Path, folds: str | int) -> Config:
    """Read the settings of a run, with the folds to use in place of those it trained last.

    Raises:
        InputError: the folder is not that of a run, or it has no such folds.
    """
    if not (run / "config.yaml").is_file():
        raise InputError(
            f"{run}: has no config.yaml; --run names the folder of a run, such as "
            "checkpoints/unet_resnet34/RUN"
        )
    return replace(load(run / "config.yaml"), folds=folds)


def find_checkpoints(run: Path, config: Config, which: str) -> list[Path]:
    """List the checkpoints of the last stage of the folds that `config.folds` names.

    Args:
        run: the run's folder.
        config: the run's settings.
        which: best or last.

    Raises:
        InputError: a fold has none; it is named with what goes on without it.
    """
    stage = config.stages(config.lr)[-1].number
    paths = {
        number: FoldCheckpoints(run / f"fold{number}").path(stage, which)
        for number in config.fold_numbers()
    }
    missing = [number for number, path in paths.items() if not path.exists()]
    if missing:
        there = ",".join(str(number) for number in paths if number not in missing)
        raise InputError(
            f"fold {', '.join(map(str, missing))} has no checkpoint: {paths[missing[0]]} is not "
            "there. Train it" + (f", or go on without it: --folds {there}" if there else "")
        )
    return list(paths.values())


def load_network(path: Path, config: Config) -> nn.Module:
    """Build a network with the weights of a checkpoint.

    Args:
        path: the checkpoint.
        config: the run's settings, which say what network it is.

    Raises:
        InputError: the file is damaged, is of another network, or its weights do not fit.
    """
    content, model_type = load_file(path), config.model_type
    if content.get("model_type") != model_type:
        raise InputError(
            f"{path} is of model_type {content.get('model_type')!r}, but the run's config.yaml says"
            f" {model_type!r}"
        )
    network = build_model(model_type, pretrained=False, t=config.t)
    try:
        network.load_state_dict(content["state_dict"])
    except (KeyError, RuntimeError, TypeError) as error:
        raise InputError(
            f"{path} has no weights that fit {model_type}: {reason_of(error)}"
        ) from error
    return network
