"""What predicts: the mean over networks, and a pass that keeps nothing but rows."""

import weakref

import cv2
import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from models.inputs import normalise
from tests.dicoms import picture
from tests.tiny import TinyNet
from utils.ensemble import Ensemble
from utils.inference import ImageFiles, open_loader, predict_images
from utils.pictures import Pictures
from utils.rle import decode
from utils.submission import Source
from utils.threshold import PostProcess

RULE = PostProcess(0.5, 0, 0.5)


@pytest.fixture(scope="module")
def fabric():
    return Fabric(accelerator="cpu", devices=1)


@pytest.fixture
def batch():
    return torch.from_numpy(np.stack([picture(16, 16, seed) for seed in range(3)])[:, None])


def networks(count):
    """Make networks whose outputs and whose batch-norm statistics differ."""
    made = []
    for seed in range(count):
        torch.manual_seed(seed)
        made.append(TinyNet())
        made[-1](torch.randn(4, 3, 8, 8))
    return made


def write_images(folder, count, side=64):
    sources = []
    for i in range(count):
        path = folder / f"image{i}.png"
        cv2.imwrite(str(path), picture(side, side, i))
        sources.append(Source(path.stem, path))
    return sources


def run(fabric, ensemble, sources, batch_size=2, **flags):
    pictures = Pictures(None, None, 0.5, "test", True)
    loader = open_loader(ImageFiles(sources, 32, False, False), batch_size, 0)
    flags = {"skip_bad": False, "only_read": False} | flags
    return predict_images(fabric, ensemble, loader, RULE, pictures, **flags)


def test_an_ensemble_is_the_mean_of_its_networks(fabric, batch):
    made = networks(3)
    together = Ensemble(fabric, made, mirror=False)(batch)
    alone = [Ensemble(fabric, [network], mirror=False)(batch) for network in made]
    assert together.shape == (3, 1, 16, 16)
    assert together.dtype == torch.float32
    torch.testing.assert_close(together, torch.stack(alone).mean(dim=0))
    assert (alone[0] - alone[1]).abs().max() > 0.01


def test_a_single_network_gives_its_probability_in_evaluation_mode(fabric, batch):
    network = networks(1)[0].eval()
    with torch.no_grad():
        expected = torch.sigmoid(network(normalise(batch)))
    network.train()
    torch.testing.assert_close(Ensemble(fabric, [network], mirror=False)(batch), expected)


def test_the_mirror_image_is_flipped_back(fabric, batch):
    made = networks(2)
    mirrored = Ensemble(fabric, made, mirror=True)(batch)
    plain = Ensemble(fabric, made, mirror=False)
    by_hand = (plain(batch) + plain(batch.flip(-1)).flip(-1)) / 2
    torch.testing.assert_close(mirrored, by_hand)
    assert (mirrored - plain(batch)).abs().max() > 1e-4


def test_half_precision_still_averages_in_float32(batch):
    half = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    made = networks(2)
    probability = Ensemble(half, made, mirror=True)(batch)
    exact = Ensemble(Fabric(accelerator="cpu", devices=1), made, mirror=True)(batch)
    assert probability.dtype == torch.float32
    assert 0 < (probability - exact).abs().max() < 0.02


def test_no_map_outlives_its_batch(fabric, tmp_path, monkeypatch):
    """At most a batch of probabilities and one full-size map exist, however many images come."""
    maps, most = [], []

    class Spy(nn.Module):
        def forward(self, image):
            result = torch.full(image.shape, 0.7)
            maps.append(weakref.ref(result))
            return result

    def watch(rule, levels, _mask=PostProcess.mask):
        maps.append(weakref.ref(levels))
        most.append(sum(map_() is not None for map_ in maps))
        return _mask(rule, levels)

    monkeypatch.setattr(PostProcess, "mask", watch)
    predictions, _ = run(fabric, Spy(), write_images(tmp_path, 12))
    assert len(most) == 12
    assert max(most) <= 3
    kept = {type(value) for prediction in predictions for value in prediction}
    assert kept <= {str, int, float}


def test_the_rule_sees_the_image_at_its_original_size(fabric, tmp_path):
    path = tmp_path / "wide.png"
    cv2.imwrite(str(path), picture(40, 90))

    def corner(image):
        result = torch.zeros(image.shape)
        result[..., :16, :16] = 0.9
        return result

    (prediction,), problems = run(fabric, corner, [Source("wide", path)])
    mask = decode(prediction.rle, 40, 90)
    assert not problems
    assert prediction.probability == pytest.approx(0.9)
    assert prediction.area == mask.sum()
    assert mask[:18, :43].all()
    assert not mask[22:].any()
    assert not mask[:, 47:].any()


def test_a_probability_that_is_no_number_is_a_problem(fabric, tmp_path):
    sources = write_images(tmp_path, 2)
    predictions, problems = run(fabric, lambda x: torch.full(x.shape, float("nan")), sources)
    assert not predictions
    assert "image0.png" in problems[0].reason
    assert "--precision 32-true" in problems[0].reason


def test_behind_an_unreadable_image_the_rest_is_only_read(fabric, tmp_path):
    sources, seen = write_images(tmp_path, 6), []
    for victim in (sources[1], sources[4]):
        victim.path.write_bytes(b"no png")

    def count(image):
        seen.append(len(image))
        return torch.zeros(image.shape)

    predictions, problems = run(fabric, count, sources, batch_size=1)
    assert [problem.id for problem in problems] == ["image1", "image4"]
    assert len(seen) == 1
    predictions, problems = run(fabric, count, sources, batch_size=3, skip_bad=True)
    assert [prediction.id for prediction in predictions] == ["image0", "image2", "image3", "image5"]
    assert len(problems) == 2
    seen.clear()
    assert run(fabric, count, sources[2:4], only_read=True) == ([], [])
    assert not seen
