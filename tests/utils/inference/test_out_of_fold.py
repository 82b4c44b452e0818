"""Out-of-fold results: the predictions of a fold's networks, and how rows are collected."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from datasets.formats.images import read_image
from datasets.formats.masks import read_mask
from datasets.sources.files import FileSource
from solver import Solver
from tests.helpers.makers import histograms_of, make_rows
from tests.helpers.tiny import build_tiny, fold_and_source, predict_slowly, write_dataset, write_run
from utils.config.command_line import load_config
from utils.config.stages import build_stages
from utils.errors import InputError
from utils.inference import ensemble
from utils.inference.ensemble import Blend, ProbabilityMaps
from utils.inference.out_of_fold import (
    collect_histograms,
    measure_prediction,
    predict_out_of_fold,
)
from utils.inference.runs import View
from utils.postprocessing.components import MAX_COMPONENTS
from utils.postprocessing.histograms import LEVELS, load_histograms

RUNS: dict[str, tuple[dict[str, Any], dict[int, list[str]]]] = {
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
    monkeypatch.setattr(ensemble, "build_model", build_tiny)


def counts_of(probability):
    return np.histogram(np.floor(255 * probability), bins=LEVELS, range=(0, LEVELS))[0]


def assert_counts(found, probability):
    """Allow small differences: the last bits of a network's output depend on the batch size."""
    assert found.sum() == probability.size
    assert np.abs(np.cumsum(found - counts_of(probability))).max() <= 20


@pytest.mark.parametrize("name", RUNS)
def test_a_fold_is_measured_with_the_networks_that_predict(root, tmp_path, name):
    changes, kept = RUNS[name]
    run = write_run(tmp_path / "run", root, seed=1, **changes)
    settings = load_config(run / "config.yaml")
    fold, source = fold_and_source(root, 1)
    source = FileSource(source.samples, settings.clahe)
    fabric = Fabric(accelerator="cpu", devices=1)
    stages = build_stages(settings)
    Solver(fabric, settings, stages, fold, source, run / "fold1", prior=0.1).write_out_of_fold()
    oof = load_histograms(run / "fold1" / "oof.npz")
    assert oof.ids.tolist() == fold.valid
    assert (oof.gate is None) == (3 not in kept)
    assert (oof.presence is None) == ("presence_weight" not in changes)
    for i, image in enumerate(fold.valid):
        sample = source.samples[image]
        truth = read_mask(sample.mask)
        probability, gate, presence = predict_slowly(run, 1, read_image(sample.image), kept)
        assert probability.std() > 0.02
        assert (oof.height[i], oof.width[i]) == truth.shape
        assert_counts(oof.all[i], probability)
        assert_counts(oof.mask[i], probability[truth > 0])
        if oof.gate is not None:
            assert_counts(oof.gate[i], gate)
            assert np.abs(np.cumsum(oof.gate[i] - oof.all[i])).max() > 100
        if oof.presence is not None:
            assert oof.presence[i] == pytest.approx(presence, abs=1e-5)
        assert oof.maximum is not None
        assert oof.maximum[i] == pytest.approx(gate.max(), abs=1e-5)
    assert oof.components is not None


class GreyImages:
    """Pixels: each image has a different size, and its index as grey level."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def pair(self, position):
        return self.triple(position)[:2]

    def triple(self, position):
        image = np.full((8, 8), position, np.uint8)
        return image, image, np.zeros((9 + position, 30 - position), np.uint8)


def grey_as_probability(image):
    probability = image.float() / 100
    return ProbabilityMaps(probability, probability, probability[:, 0, 0, 0])


@pytest.mark.parametrize("workers", [0, 1])
def test_results_keep_the_order_and_the_sizes_of_the_images(workers):
    blend = Blend([grey_as_probability], [View(8, False)], [1.0])
    names = [f"image{i}" for i in range(11)]
    fabric = Fabric(accelerator="cpu", devices=1)
    found = predict_out_of_fold(fabric, blend, [GreyImages(11)], names, 3, workers)
    assert found.ids.tolist() == names
    assert found.height.tolist() == [9 + i for i in range(11)]
    assert found.width.tolist() == [30 - i for i in range(11)]
    assert found.presence is not None
    np.testing.assert_allclose(found.presence, np.arange(11) / 100)
    assert found.maximum is not None
    assert found.maximum.dtype == np.float32
    np.testing.assert_allclose(found.maximum, np.arange(11) / 100, atol=1e-6)
    assert found.all.argmax(axis=1).tolist() == [int(255 * i / 100) for i in range(11)]


def test_maps_with_too_many_components_are_reported(capsys):
    def checkered(image):
        side = torch.arange(image.shape[-1])
        board = ((side[:, None] % 2 + side % 2) == 0).float() * 0.9
        return ProbabilityMaps(*(board.expand(len(image), 1, -1, -1),) * 2, None)

    class LargeImages(GreyImages):
        def triple(self, position):
            image = np.zeros((160, 160), np.uint8)
            return image, image, image

    blend = Blend([checkered], [View(160, False)], [1.0])
    fabric = Fabric(accelerator="cpu", devices=1)
    found = predict_out_of_fold(fabric, blend, [LargeImages(3)], list("abc"), 2, 0)
    assert found.components is None
    assert "3 of 3 images have more than 4096 components" in capsys.readouterr().out


def test_an_invalid_probability_is_an_error_that_names_the_image():
    def broken(image):
        maps = grey_as_probability(image)
        maps.probability[image[:, 0, 0, 0] == 4] = torch.nan
        return maps

    blend = Blend([broken], [View(8, False)], [1.0])
    fabric = Fabric(accelerator="cpu", devices=1)
    with pytest.raises(InputError, match="image e: the predicted probability is nan"):
        predict_out_of_fold(fabric, blend, [GreyImages(6)], list("abcdef"), 2, 0)


def test_collected_rows_equal_the_histograms_of_the_maps():
    images, rows = make_rows(3, gate=True, presence=True)
    ids = [row.id for row in rows]
    sent = pickle.loads(pickle.dumps(rows[::-1]))
    histograms = collect_histograms(ids[1:] + ids[:1], sent)
    images = images[1:] + images[:1]
    plain = histograms_of([(levels, mask) for levels, mask, *_ in images])
    gates = histograms_of([(gate, mask) for _, mask, gate, *_ in images])
    assert histograms.ids.tolist() == ids[1:] + ids[:1]
    for name in ("height", "width", "all", "mask"):
        assert np.array_equal(getattr(histograms, name), getattr(plain, name))
        assert getattr(histograms, name).dtype == np.int32
    assert histograms.gate is not None
    assert np.array_equal(histograms.gate, gates.all)
    assert histograms.gate.dtype == np.int32
    assert histograms.presence is not None
    assert histograms.presence.tolist() == [presence for *_, presence, _ in images]
    assert histograms.presence.dtype == np.float32
    assert histograms.maximum is not None
    assert histograms.maximum.tolist() == [maximum for *_, maximum in images]


def test_components_refer_to_their_image():
    _, rows = make_rows(4, gate=False, presence=False)
    histograms = collect_histograms([row.id for row in rows[::-1]], rows)
    assert histograms.components is not None
    image = histograms.components[:, 0]
    for index, row in enumerate(rows[::-1]):
        assert row.components is not None
        assert np.array_equal(histograms.components[image == index, 1:], row.components)
    assert histograms.gate is None
    assert histograms.presence is None


def test_maps_may_be_flipped_or_transposed_views():
    (levels, mask, gate, *_), *_ = make_rows(4, gate=True, presence=False)[0][3:]
    expected = measure_prediction("a", *(part.copy() for part in (levels[::-1].T, mask[::-1].T)))
    found = measure_prediction("a", levels[::-1].T, mask[::-1].T, gate[:, ::-1].T)
    assert np.array_equal(found.all, expected.all)
    assert np.array_equal(found.mask, expected.mask)
    assert found.components is not None
    assert expected.components is not None
    rows = (sorted(map(tuple, c.tolist())) for c in (found.components, expected.components))
    assert next(rows) == next(rows)


def test_one_noisy_image_drops_the_components_of_all():
    levels = np.zeros((2 * MAX_COMPONENTS + 2, 1), np.uint8)
    levels[::2] = 99
    noise = measure_prediction("noise", levels, levels // 99, maximum=0.39)
    _, rows = make_rows(0, gate=False, presence=False)
    assert collect_histograms(["image0"], rows[:1]).components is not None
    assert collect_histograms(["noise", "image0"], [rows[0], noise]).components is None


def test_inconsistent_rows_are_refused():
    _, with_gate = make_rows(0, gate=True, presence=False)
    _, with_presence = make_rows(0, gate=False, presence=True)
    _, plain = make_rows(0, gate=False, presence=False)
    ids = [row.id for row in plain]
    no_maximum = [row._replace(maximum=None) for row in plain]
    for other, name in (
        (with_gate, "gate"),
        (with_presence, "presence"),
        (no_maximum, "maximum"),
    ):
        with pytest.raises(ValueError, match=name):
            collect_histograms(ids[:2], [plain[0], other[1]])
    with pytest.raises(KeyError, match="image1"):
        collect_histograms(ids[:2], plain[:1])
    with pytest.raises(ValueError, match="image2"):
        collect_histograms(ids[:2], plain[:3])
