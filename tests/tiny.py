"""A data set small enough to train on within a second, and a network for it."""

from pathlib import Path

import cv2
import numpy as np
from torch import Tensor, nn

from datasets.files import Files
from datasets.siim import find_samples
from datasets.splits import Fold, fold_of, split
from utils.config import Config

SETTINGS = {
    "pretrained": False,
    "image_size_stage1": 32,
    "batch_size_stage1": 4,
    "epoch_stage1": 2,
    "epoch_stage1_freeze": 1,
    "image_size_stage2": 64,
    "batch_size_stage2": 4,
    "epoch_stage2": 2,
    "epoch_stage2_accumulation": 1,
    "accumulation_steps": 2,
    "n_splits": 2,
    "seed": 5,
    "num_workers": 0,
}


def write_dataset(root: Path, count: int = 14, height: int = 72, width: int = 60) -> Path:
    """Write `count` images, two in three with a bright square that is their mask."""
    for folder in ("train_images", "train_mask"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        image = rng.integers(0, 120, (height, width)).astype(np.uint8)
        mask = np.zeros((height, width), np.uint8)
        if i % 3:
            top, left = rng.integers(5, 30, 2)
            mask[top : top + 24, left : left + 20] = 255
        image[mask > 0] += 120
        cv2.imwrite(str(root / "train_images" / f"image{i:02d}.png"), image)
        cv2.imwrite(str(root / "train_mask" / f"image{i:02d}.png"), mask)
    return root


def config(root: Path, **changes) -> Config:
    """Settings of a training that takes about a second."""
    return Config(**(SETTINGS | {"dataset_root": str(root)} | changes))


def as_flags(settings: dict) -> list[str]:
    """Write settings as a command line."""
    return [
        word
        for name, value in settings.items()
        for word in (f"--{name}", str(value).lower() if isinstance(value, bool) else str(value))
    ]


def fold_and_source(root: Path, number: int = 0) -> tuple[Fold, Files]:
    """Cut the data set in two and return one fold with the pixels of all images."""
    source = Files(find_samples(root)[0], clahe=True)
    positive = {name: share > 0 for name, share in source.shares().items()}
    return fold_of(split(positive, 2, stratified=False), number), source


class TinyNet(nn.Module):
    """Two convolutions; the first, with its norm, is the encoder."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[B,3,H,W] -> logits [B,1,H,W]."""
        return self.head(self.encoder(x))
