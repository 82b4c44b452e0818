"""How much each part does: at full size on a GPU, small without one."""

from dataclasses import dataclass

import torch

from benchmarks.speed.data import Data


@dataclass(frozen=True)
class Scale:
    """Sizes and numbers of all parts.

    Attributes:
        batches: image sizes in pixels, and the images per training step at each.
        steps: training steps of a timed call.
        rounds: timed calls, of which the median counts.
        images: images of a timed call of loading, validation and prediction.
        xrays: number of synthetic X-rays.
        side: their height and width in pixels.
        training: image sizes of the two stages of the small trainings.
        kills: kills of a training that is resumed.
        half: the precision that the float16 training asks for.
    """

    batches: dict[int, int]
    steps: int
    rounds: int
    images: int
    xrays: int
    side: int
    training: tuple[int, int]
    kills: int
    half: str


FULL = Scale({512: 20, 1024: 4}, 30, 3, 800, 96, 1024, (128, 256), 4, "16-mixed")
SMALL = Scale({32: 4, 64: 2}, 1, 1, 4, 6, 96, (32, 64), 1, "32-true")
NETWORKS = ("unet_resnet34", "smp:Unet:tu-tf_efficientnet_lite0")


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
