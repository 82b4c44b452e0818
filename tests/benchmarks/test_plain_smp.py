"""The peer that recipes are compared with: its folds, its seeds, and a tiny training of it."""

from argparse import Namespace

import albumentations as A
import numpy as np
import pandas as pd
import pytest
from albumentations.pytorch import ToTensorV2
from torch import manual_seed

from benchmarks import plain_smp
from benchmarks.comparison import read_scored
from datasets.folds import get_fold, make_folds
from models.pretrained.packages import find_packaged
from tests.helpers.tiny import write_dataset

ENCODER = "tu-tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A data set with the patients of its images, two of each."""
    root = write_dataset(tmp_path_factory.mktemp("tiny"), count=16)
    names = sorted(path.stem for path in (root / "train_images").iterdir())
    table = pd.DataFrame({"ImageId": names, "PatientId": [i // 2 for i in range(16)]})
    table.to_csv(root / "patients.csv", index=False)
    return root


def call(root, *words):
    flags = ["--data", root, "--groups", root / "patients.csv", *words]
    return plain_smp.main([str(flag) for flag in flags])


@pytest.mark.parametrize(
    ("folds", "trained"), [("0,0", [0]), ("1,0", [0, 1]), ("all", [0, 1, 2]), ("3", None)]
)
def test_every_fold_is_trained_once(root, tmp_path, capsys, monkeypatch, folds, trained):
    seen = []

    def train_fold(given, fold):
        seen.append(fold.number)
        row = {"positive": True, "dice": 0.5, "predicted": True, "score": 0.5, "seconds": 1.0}
        return pd.DataFrame([{"id": name} | row for name in fold.valid])

    monkeypatch.setattr(plain_smp, "train_fold", train_fold)
    code = call(root, "--n_splits", 3, "--folds", folds, "--out", tmp_path / "peer.csv")
    if trained is None:
        assert code == 2
        assert "--folds 3: give all, or fold numbers from 0 to 2" in capsys.readouterr().err
        return
    assert seen == trained
    ids = read_scored(tmp_path / "peer.csv").ids
    assert len(ids) == len(set(ids))


def draw_epochs(root, seed, workers):
    """Return the images of two epochs, [2,8,S,S], of a data set that has one image eight times."""
    given = Namespace(batch=2, num_workers=workers, seed=seed)
    image = root / "train_images" / "image01.png"
    augment = A.Compose([A.RandomBrightnessContrast(p=1), ToTensorV2()], seed=given.seed)
    manual_seed(given.seed)
    loader = plain_smp.open_training(given, plain_smp.XRays([(image, image)] * 8, augment))
    return np.stack([np.concatenate([x[:, 0].numpy() for x, _ in loader]) for _ in range(2)])


@pytest.mark.parametrize(
    "workers", [0, pytest.param(2, marks=pytest.mark.slow)], ids="{} workers".format
)
def test_the_seed_decides_every_augmentation_and_none_is_repeated(root, workers):
    """Neither in another epoch nor by another worker."""
    first, again, other = (draw_epochs(root, seed, workers) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    images = np.concatenate((first, other)).reshape(32, -1)
    assert len(np.unique(images, axis=0)) == 32


@pytest.mark.slow
@pytest.mark.skipif(find_packaged(ENCODER) is None, reason="no installed weights")
def test_a_training_scores_the_validation_images_and_is_repeatable(root, tmp_path):
    flags = ["--n_splits", 2, "--folds", 1, "--size", 64, "--epochs", 1, "--batch", 4]
    flags += ["--device", "cpu", "--num_workers", 0]
    scored = []
    for name in ("one.csv", "two.csv"):
        assert call(root, *flags, "--out", tmp_path / name) == 0
        scored.append(read_scored(tmp_path / name))
    names = [f"image{i:02}" for i in range(16)]
    patients = {name: str(i // 2) for i, name in enumerate(names)}
    positive = {name: i % 3 > 0 for i, name in enumerate(names)}
    table = make_folds(positive, 2, True, patients, grouped=True)
    assert scored[0].ids == sorted(get_fold(table, 1).valid)
    assert scored[0].patients == [patients[name] for name in scored[0].ids]
    assert scored[0].positive.tolist() == [positive[name] for name in scored[0].ids]
    # Without a prediction, Dice is 1 for an empty image and 0 for another.
    left = ~scored[0].predicted
    np.testing.assert_array_equal(scored[0].dice[left], ~scored[0].positive[left])
    assert 0 < scored[0].score.min() < scored[0].score.max() < 1
    for part in ("dice", "predicted", "score"):
        np.testing.assert_array_equal(getattr(scored[0], part), getattr(scored[1], part))
