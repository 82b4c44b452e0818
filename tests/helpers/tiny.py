"""A data set and a network small enough to train within a second."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datasets.folds import Fold, get_fold, make_folds, write_folds
from datasets.preprocessing import preprocess
from datasets.siim import find_samples
from datasets.sources.files import FileSource
from models.interface import NetworkOutput, normalise
from utils.config.command_line import load_config
from utils.config.settings import Config
from utils.config.stages import build_stages, mask_stage

SETTINGS: dict[str, Any] = {
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
    """Write `count` images; two of three are positive, with a bright rectangle as mask."""
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


def config(root: Path, **changes: Any) -> Config:
    """Return settings of a training that takes about a second."""
    return Config(**(SETTINGS | {"dataset_root": str(root)} | changes))


def as_flags(settings: dict[str, Any]) -> list[str]:
    """Convert settings to command-line arguments."""
    return [
        word
        for name, value in settings.items()
        for word in (f"--{name}", str(value).lower() if isinstance(value, bool) else str(value))
    ]


def fold_and_source(root: Path, number: int = 0) -> tuple[Fold, FileSource]:
    """Split the data set in two, and return one fold and the pixels of all images."""
    source = FileSource(find_samples(root)[0], clahe=True)
    positive = {name: share > 0 for name, share in source.mask_fractions().items()}
    return get_fold(make_folds(positive, 2, stratified=False), number), source


class TinyNet(nn.Module):
    """Two convolutions; the first one and its batch norm are the encoder."""

    size_step = 4

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, x: Tensor) -> NetworkOutput:
        """[B,3,H,W] -> logits [B,1,H,W]."""
        return self.head(self.encoder(x))


class WithPresence(TinyNet):
    """Has a presence head too, the mean of its logits."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B,3,H,W] -> logits [B,1,H,W] and [B,1]."""
        logits = self.head(self.encoder(x))
        return logits, logits.mean(dim=(2, 3))


def build_tiny(*_: object, presence_head: bool = False, **__: object) -> TinyNet:
    """Replace `models.build_model`."""
    return WithPresence() if presence_head else TinyNet()


def write_run(folder: Path, root: Path, seed: int, **changes: Any) -> Path:
    """Write a finished run of two folds, with untrained networks of widely varying output.

    Returns:
        The run's folder: config.yaml, folds.csv and the best, kept and last checkpoints of every
        stage, each from a different network.
    """
    settings = config(root, run_name=folder.name, **changes)
    folder.mkdir(parents=True)
    settings.save(folder / "config.yaml")
    found = find_samples(root).samples
    mask_fractions = FileSource(found, settings.clahe).mask_fractions()
    table = make_folds(
        {name: share > 0 for name, share in mask_fractions.items()}, 2, stratified=False
    )
    write_folds(table, folder / "folds.csv")
    torch.manual_seed(seed)
    for fold in range(2):
        (folder / f"fold{fold}").mkdir()
        for stage in build_stages(settings):
            kept = [f"epoch{e + 1}" for e in range(settings.keep_best) if settings.keep_best > 1]
            for number, which in enumerate(("best", "last", *kept), start=-2):
                network = build_tiny(presence_head=settings.presence_head)
                network.head.weight.data *= 8
                content = {
                    "state_dict": network.state_dict(),
                    "model_type": settings.model_type,
                    "fold": fold,
                    "stage": stage.number,
                    "epoch": max(0, number),
                }
                torch.save(content, folder / f"fold{fold}" / f"stage{stage.number}_{which}.pth")
    return folder


def predict_slowly(
    run: Path,
    fold: int,
    grey: np.ndarray,
    kept: dict[int, list[str]],
    prepared: bool = False,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Predict one image at its original size with the networks of a fold, one by one.

    Args:
        run: folder from `write_run`.
        fold: number of the fold.
        grey: [H,W] uint8.
        kept: names of the checkpoints to average, by stage.
        prepared: whether `grey` is already preprocessed.

    Returns:
        The maps of the last and of the first stage in `kept`, [H,W] float64, and the presence of
        the first stage, NaN without a head.
    """
    settings = load_config(run / "config.yaml")
    size = mask_stage(settings).image_size
    pixels = torch.from_numpy(grey if prepared else preprocess(grey, size, settings.clahe))
    maps, presences = {}, {}
    for stage, names in kept.items():
        probabilities, heads = [], []
        for name in names:
            network = build_tiny(presence_head=settings.presence_head).eval()
            path = run / f"fold{fold}" / f"stage{stage}_{name}.pth"
            network.load_state_dict(torch.load(path)["state_dict"])
            with torch.no_grad():
                output = network(normalise(pixels[None, None], settings.normalisation))
            logits, presence = output if isinstance(output, tuple) else (output, None)
            heads.append(float("nan") if presence is None else torch.sigmoid(presence).item())
            full = F.interpolate(torch.sigmoid(logits), grey.shape, mode="bilinear")
            probabilities.append(full[0, 0].double().numpy())
        maps[stage], presences[stage] = np.mean(probabilities, axis=0), float(np.mean(heads))
    gate = min(kept)
    return maps[max(kept)], maps[gate], presences[gate]
