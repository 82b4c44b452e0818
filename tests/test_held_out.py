"""Out-of-fold results: what is kept is what predict.py's networks of that fold would give."""

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from datasets.formats.images import read_image, read_mask
from datasets.sources.files import Files
from solver import Solver
from tests.tiny import build_tiny, fold_and_source, predict_slowly, write_dataset, write_run
from utils.config.settings import load
from utils.errors import InputError
from utils.inference import runs as members
from utils.inference.ensemble import Blend, Maps, View
from utils.inference.held_out import predict_held_out
from utils.postprocessing.histograms import LEVELS, load_histograms

RUNS = {
    "plain": ({}, {2: ["best"]}),
    "one stage, not equalised": ({"two_stage": False, "clahe": False}, {1: ["best"]}),
    "kept epochs": ({"keep_best": 2}, {2: ["epoch1", "epoch2"]}),
    "stage 3": ({"epoch_stage3": 1}, {2: ["best"], 3: ["best"]}),
    "everything": (
        {"epoch_stage3": 1, "keep_best": 2, "presence_weight": 0.1},
        {2: ["epoch1", "epoch2"], 3: ["epoch1", "epoch2"]},
    ),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def tiny_network(monkeypatch):
    monkeypatch.setattr(members, "build_model", build_tiny)


def counts_of(probability):
    return np.histogram(np.floor(255 * probability), bins=LEVELS, range=(0, LEVELS))[0]


def assert_counts(found, probability):
    """Allow what the last bits of a network's output change: they depend on the batch's shape."""
    assert found.sum() == probability.size
    assert np.abs(np.cumsum(found - counts_of(probability))).max() <= 20


@pytest.mark.parametrize("name", RUNS)
def test_a_fold_is_measured_with_the_networks_that_predict(root, tmp_path, name):
    changes, kept = RUNS[name]
    run = write_run(tmp_path / "run", root, seed=1, **changes)
    settings = load(run / "config.yaml")
    fold, source = fold_and_source(root, 1)
    source = Files(source.samples, settings.clahe)
    fabric = Fabric(accelerator="cpu", devices=1)
    stages = settings.stages(settings.lr)
    Solver(fabric, settings, stages, fold, source, run / "fold1", prior=0.1).write_out_of_fold()
    oof = load_histograms(run / "fold1" / "oof.npz")
    assert oof.ids.tolist() == fold.valid
    assert (oof.gate is None) == (3 not in kept)
    assert (oof.presence is None) == ("presence_weight" not in changes)
    for i, image in enumerate(fold.valid):
        sample = source.samples[image]
        truth = read_mask(sample.mask)
        drawn, deciding, presence = predict_slowly(run, 1, read_image(sample.image), kept)
        assert drawn.std() > 0.02
        assert (oof.height[i], oof.width[i]) == truth.shape
        assert_counts(oof.all[i], drawn)
        assert_counts(oof.mask[i], drawn[truth > 0])
        if oof.gate is not None:
            assert_counts(oof.gate[i], deciding)
            assert np.abs(np.cumsum(oof.gate[i] - oof.all[i])).max() > 100
        if oof.presence is not None:
            assert oof.presence[i] == pytest.approx(presence, abs=1e-5)
    assert oof.components is not None


class Shown:
    """Pixels whose every image is of another size, with its position as grey."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def triple(self, position):
        image = np.full((8, 8), position, np.uint8)
        return image, image, np.zeros((9 + position, 30 - position), np.uint8)


def grey_as_probability(image):
    probability = image.float() / 100
    return Maps(probability, probability, probability[:, 0, 0, 0])


@pytest.mark.parametrize("workers", [0, 1])
def test_measures_are_in_the_order_of_the_images_and_of_their_sizes(workers):
    blend = Blend([grey_as_probability], [View(8, False)], [1.0])
    names = [f"image{i}" for i in range(11)]
    fabric = Fabric(accelerator="cpu", devices=1)
    found = predict_held_out(fabric, blend, [Shown(11)], names, 3, workers)
    assert found.ids.tolist() == names
    assert found.height.tolist() == [9 + i for i in range(11)]
    assert found.width.tolist() == [30 - i for i in range(11)]
    np.testing.assert_allclose(found.presence, np.arange(11) / 100)
    assert found.all.argmax(axis=1).tolist() == [int(255 * i / 100) for i in range(11)]


def test_maps_of_too_many_components_are_told(capsys):
    def checkered(image):
        side = torch.arange(image.shape[-1])
        board = ((side[:, None] % 2 + side % 2) == 0).float() * 0.9
        return Maps(*(board.expand(len(image), 1, -1, -1),) * 2, None)

    class Large(Shown):
        def triple(self, position):
            image = np.zeros((160, 160), np.uint8)
            return image, image, image

    blend = Blend([checkered], [View(160, False)], [1.0])
    fabric = Fabric(accelerator="cpu", devices=1)
    found = predict_held_out(fabric, blend, [Large(3)], list("abc"), 2, 0)
    assert found.components is None
    assert "3 of 3 images have more than 4096 components" in capsys.readouterr().out


def test_what_is_no_probability_ends_the_pass_and_names_the_image():
    def broken(image):
        maps = grey_as_probability(image)
        maps.drawn[image[:, 0, 0, 0] == 4] = torch.nan
        return maps

    blend = Blend([broken], [View(8, False)], [1.0])
    fabric = Fabric(accelerator="cpu", devices=1)
    with pytest.raises(InputError, match="image e: the predicted probability is nan"):
        predict_held_out(fabric, blend, [Shown(6)], list("abcdef"), 2, 0)
