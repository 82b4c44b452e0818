"""The demo learns to find masks, and its score is not an artefact of the pipeline."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import main
from datasets import prepare, sample
from datasets.formats.images import read_image
from datasets.formats.masks import read_mask
from datasets.siim import find_samples
from utils.postprocessing.histograms import Histograms, load_histograms
from utils.postprocessing.maps.tensors import count_levels
from utils.postprocessing.rule import score
from utils.postprocessing.search import best_pair

RECIPE = str(Path(__file__).parent.parent / "recipes" / "demo.yaml")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo_data(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo_data")
    assert sample.main(["--out", str(root), "--size", "512"]) == 0
    images = str(root / "dicom-images-train")
    assert prepare.main(["--images", images, "--out", str(root)]) == 0
    return root


def dice_on_positives(root, checkpoints, **changes):
    flags = ["--config", RECIPE, "--dataset_root", str(root), "--model_path", str(checkpoints)]
    flags += ["--groups", str(root / "patients.csv"), "--run_name", "demo", "--folds", "0"]
    flags += [word for name, value in changes.items() for word in (f"--{name}", str(value))]
    assert main.main(flags) == 0
    oof = load_histograms(checkpoints / "unet_resnet34" / "demo" / "fold0" / "oof.npz")
    return score(oof, best_pair(oof)).dice_positive, oof.ids


def best_dice_of_a_threshold(root, ids):
    """Best Dice on positives of a single grey-level threshold, for dark or bright pixels."""
    samples = find_samples(root).samples
    best = 0.0
    for flip in (0, 255):
        counts = []
        for name in ids:
            grey = torch.from_numpy(read_image(samples[name].image)) ^ flip
            counts.append(count_levels(grey, torch.from_numpy(read_mask(samples[name].mask))))
        stacked = torch.stack(counts).numpy()
        size = np.full(len(ids), 512)
        histograms = Histograms(ids, size, size, stacked[:, 0], stacked[:, 1])
        best = max(best, histograms.dice()[histograms.positive].mean(axis=0).max())
    return best


def shuffle_masks(root, copy):
    """Copy a data set with its masks assigned to random images."""
    shutil.copytree(root / "train_images", copy / "train_images")
    shutil.copy(root / "patients.csv", copy)
    (copy / "train_mask").mkdir()
    names = sorted(path.name for path in (root / "train_mask").iterdir())
    order = np.random.default_rng(0).permutation(len(names))
    for name, other in zip(names, order, strict=True):
        shutil.copy(root / "train_mask" / names[other], copy / "train_mask" / name)
    return copy


def test_the_demo_learns(demo_data, tmp_path):
    learned, ids = dice_on_positives(demo_data, tmp_path)
    assert learned >= 0.6
    assert learned >= best_dice_of_a_threshold(demo_data, ids) + 0.2


def test_with_shuffled_masks_it_does_not_learn(demo_data, tmp_path):
    shuffled = shuffle_masks(demo_data, tmp_path / "shuffled")
    learned, _ = dice_on_positives(shuffled, tmp_path, epoch_stage1=12, two_stage="false")
    assert learned <= 0.3
