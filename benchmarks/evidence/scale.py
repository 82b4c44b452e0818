"""How much each part does: at full size on a GPU, small without one."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from benchmarks.speed.data import Data


@dataclass(frozen=True)
class Scale:
    """Sizes and numbers of all parts.

    Attributes:
        gpu: whether there is one.
        batches: image sizes in pixels, and the images per training step at each.
        steps: training steps of a timed call.
        rounds: timed calls, of which the median counts.
        images: images of a timed call of loading, validation and prediction.
        xrays: number of synthetic X-rays.
        side: their height and width in pixels.
        training: settings of the small trainings.
        training_images: their X-rays, half of them to train on.
        kills: kills of a training that is resumed.
    """

    gpu: bool
    batches: dict[int, int]
    steps: int
    rounds: int
    images: int
    xrays: int
    side: int
    training: Mapping[str, str]
    training_images: int
    kills: int


NETWORKS = ("unet_resnet34", "smp:Unet:tu-tf_efficientnet_lite0")
FULL = Scale(
    gpu=True,
    batches={512: 20, 1024: 4},
    steps=30,
    rounds=3,
    images=800,
    xrays=96,
    side=1024,
    training={
        "model_type": NETWORKS[0],
        "image_size_stage1": "128",
        "image_size_stage2": "256",
    },
    training_images=48,
    kills=4,
)
SMALL = Scale(
    gpu=False,
    batches={32: 4, 64: 2},
    steps=1,
    rounds=1,
    images=4,
    xrays=6,
    side=96,
    # The smallest network with an encoder, and as few epochs as two stages have: a ResNet34 takes
    # minutes for a training on two cores, most of them for its steps and its checkpoints.
    training={
        "model_type": "smp:Unet:tu-mobilenetv3_small_050",
        "image_size_stage1": "32",
        "image_size_stage2": "64",
        "epoch_stage1": "2",
        "epoch_stage2": "2",
        "epoch_stage2_accumulation": "1",
    },
    training_images=24,
    kills=1,
)


@dataclass(frozen=True)
class Context:
    """What every part is given.

    Attributes:
        scale: how much to do.
        data: the X-rays.
        workers: data loading processes.
        cores: usable cores of the machine.
        seconds: time that the part has.
    """

    scale: Scale
    data: Data
    workers: int
    cores: int
    seconds: float


def choose_scale() -> Scale:
    """Return the full size with a GPU, and the small one without."""
    return FULL if torch.cuda.is_available() else SMALL
