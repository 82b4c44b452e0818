"""Ensembles and blends, and the prediction of files, which keeps no maps."""

import weakref
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import nn
from torch.nn import functional as F

from datasets.formats.rle import decode
from models.interface import normalise
from tests.helpers.dicoms import picture
from tests.helpers.tiny import TinyNet, WithPresence
from utils.config.settings import Config
from utils.config.tta import TTA
from utils.errors import InputError
from utils.inference.ensemble import Blend, Ensemble, ProbabilityMaps, open_ensemble
from utils.inference.images import ImageFiles
from utils.inference.loop import open_loader, predict_images
from utils.inference.pictures import Pictures
from utils.inference.runs import Checkpoints, View
from utils.inference.submission import InputImage
from utils.postprocessing.rule import PostProcess

RULE = PostProcess(0.5, 0, 0.5)
VIEW = View(32, False)


@pytest.fixture(scope="module")
def fabric():
    return Fabric(accelerator="cpu", devices=1)


@pytest.fixture
def batch():
    return torch.from_numpy(np.stack([picture(16, 16, seed) for seed in range(3)])[:, None])


def networks(count, kind=TinyNet):
    """Build networks with different outputs and batch-norm statistics."""
    built = []
    for seed in range(count):
        torch.manual_seed(seed)
        built.append(kind())
        built[-1](torch.randn(4, 3, 8, 8))
    return built


def write_images(folder, count, side=64):
    sources = []
    for i in range(count):
        path = folder / f"image{i}.png"
        cv2.imwrite(str(path), picture(side, side, i))
        sources.append(InputImage(path.stem, path))
    return sources


def run(fabric, ensemble, sources, batch_size=2, rule=RULE, **flags):
    """Predict with a function that returns `ProbabilityMaps` or a single map."""
    pictures = Pictures(None, None, 0.5, "test", True)
    blend = Blend([lambda image: as_maps(ensemble(image))], [VIEW], [1.0])
    loader = open_loader(ImageFiles(sources, blend.views, False), batch_size, 0)
    flags = {"skip_bad": False, "only_read": False} | flags
    return predict_images(fabric, blend, loader, rule, pictures, **flags)


def as_maps(result):
    return ProbabilityMaps(result, result, None) if isinstance(result, torch.Tensor) else result


def by_hand(network, batch):
    """Predict in evaluation mode: the map, and the presence if the network has a head."""
    with torch.no_grad():
        output = network.eval()(normalise(batch))
    parts = output if isinstance(output, tuple) else (output,)
    return [torch.sigmoid(part) for part in parts]


def test_an_ensemble_is_the_mean_of_its_networks(fabric, batch):
    built = networks(3)
    together = Ensemble(fabric, built)(batch).probability
    single = [Ensemble(fabric, [network])(batch).probability for network in built]
    assert together.shape == (3, 1, 16, 16)
    assert together.dtype == torch.float32
    torch.testing.assert_close(together, torch.stack(single).mean(dim=0))
    assert (single[0] - single[1]).abs().max() > 0.01


def test_a_single_network_predicts_in_evaluation_mode(fabric, batch):
    network = networks(1)[0].eval()
    with torch.no_grad():
        expected = torch.sigmoid(network(normalise(batch)))
    network.train()
    maps = Ensemble(fabric, [network])(batch)
    torch.testing.assert_close(maps.probability, expected)
    assert maps.gate is maps.probability
    assert maps.presence is None


def test_the_mirror_image_is_flipped_back(fabric, batch):
    built = networks(2)
    mirrored = Ensemble(fabric, built, tta=TTA(hflip=True))(batch).probability
    plain = Ensemble(fabric, built)
    expected = (plain(batch).probability + plain(batch.flip(-1)).probability.flip(-1)) / 2
    torch.testing.assert_close(mirrored, expected)
    assert (mirrored - plain(batch).probability).abs().max() > 1e-4


@pytest.mark.parametrize("hflip", [False, True])
def test_scales_are_the_mean_over_all_sizes_and_both_sides(fabric, hflip):
    """By plain loops, of maps and of presence."""
    built = networks(2, WithPresence)
    image = torch.from_numpy(picture(40, 40, 0))[None, None]
    maps = Ensemble(fabric, built, TTA(hflip, scales=True))(image)
    expected, presences = [], []
    for side in (36, 40, 44):
        for flip in (False, True) if hflip else (False,):
            shown = F.interpolate(image.float(), size=(side, side), mode="bilinear")
            for network in built:
                probability, presence = by_hand(network, shown.flip(3) if flip else shown)
                probability = probability.flip(3) if flip else probability
                expected.append(F.interpolate(probability, size=(40, 40), mode="bilinear"))
                presences.append(presence)
    assert len(expected) == (12 if hflip else 6)
    mean = torch.stack(expected).mean(dim=0)
    torch.testing.assert_close(maps.probability, mean)
    torch.testing.assert_close(maps.presence, torch.stack(presences).mean(dim=0)[:, 0])
    plain = Ensemble(fabric, built, TTA(hflip))(image).probability
    assert (mean - plain).abs().max() > 1e-3


def test_scales_without_effect_are_refused_when_networks_are_loaded(fabric, monkeypatch):
    """Near 64 pixels there are no other multiples of 32, but 64 pixels can be predicted alone."""
    network = TinyNet()
    monkeypatch.setattr(network, "size_step", 32, raising=False)
    monkeypatch.setattr("utils.inference.ensemble.load_network", lambda *_: network)
    settings, paths = Config(image_size_stage2=64), Checkpoints([Path("a.pth")], [Path("a.pth")])
    open_ensemble(fabric, settings, paths, TTA(hflip=True))
    with pytest.raises(InputError, match=r"^--tta scales: has no effect at 64 pixels"):
        open_ensemble(fabric, settings, paths, TTA(scales=True))


@pytest.mark.parametrize("mirror", [False, True])
def test_some_networks_predict_masks_and_others_are_the_gate(fabric, batch, mirror):
    """Presence comes from the gate networks: the others never saw an empty image."""
    built = networks(5, WithPresence)
    maps = Ensemble(fabric, built[:2], TTA(hflip=mirror), gate_networks=built[2:])(batch)
    sides = [batch, batch.flip(-1)] if mirror else [batch]
    for found, part, chosen in (
        (maps.probability, 0, built[:2]),
        (maps.gate, 0, built[2:]),
        (maps.presence[:, None], 1, built[2:]),
    ):
        each = [torch.stack([by_hand(n, side)[part] for n in chosen]) for side in sides]
        if mirror and part == 0:
            each[1] = each[1].flip(-1)
        torch.testing.assert_close(found, torch.cat(each).mean(dim=0))
    assert (maps.probability - maps.gate).abs().max() > 0.01
    assert len(set(maps.presence.tolist())) == 3


def test_no_network_predicts_twice(fabric, batch):
    calls = []

    class Counted(TinyNet):
        def forward(self, x):
            calls.append(self)
            return super().forward(x)

    built = networks(3, Counted)
    calls.clear()
    Ensemble(fabric, built)(batch)
    assert len(calls) == 3
    calls.clear()
    Ensemble(fabric, built[:1], gate_networks=built[1:])(batch)
    assert len(calls) == 3


SIZES = [(20, 31), (16, 16), (9, 40)]


def test_a_blend_is_the_mean_of_full_size_maps(fabric, batch):
    """Against numpy: maps of different sizes, a run with a separate gate, unequal weights."""
    small, large = batch[..., ::2, ::2].contiguous(), batch
    built = networks(4, WithPresence)
    ensembles = [
        Ensemble(fabric, built[:1], gate_networks=built[1:2]),
        Ensemble(fabric, built[2:3]),
        Ensemble(fabric, built[3:]),
    ]
    weights, shown = [0.5, 0.3, 0.2], [small, large, large]
    views = [View(8, True), View(16, True), View(16, True)]
    blend = Blend(ensembles, views, weights)
    assert blend.views == views[:2]
    blended = list(blend([small, large], SIZES))
    all_maps = [ensemble(image) for ensemble, image in zip(ensembles, shown, strict=True)]
    for i, (full_size, size) in enumerate(zip(blended, SIZES, strict=True)):
        for name in ("probability", "gate"):
            full = [
                F.interpolate(getattr(maps, name)[i : i + 1], size, mode="bilinear")[0, 0].numpy()
                for maps in all_maps
            ]
            expected = np.average(np.stack(full), axis=0, weights=weights)
            np.testing.assert_allclose(getattr(full_size, name).numpy(), expected, atol=1e-6)
            assert np.abs(expected - full[0]).max() > 0.01
        presences = [maps.presence[i].item() for maps in all_maps]
        assert full_size.presence == pytest.approx(np.average(presences, weights=weights))
        assert not torch.equal(full_size.probability, full_size.gate)


@pytest.mark.parametrize("weights", [[0.5, 0.5], [0.6, 0.4], [0.1, 0.2, 0.7]])
def test_a_blend_of_a_run_with_itself_is_bit_identical_to_the_run(fabric, batch, weights):
    ensemble, count = Ensemble(fabric, networks(1, WithPresence)), len(weights)
    (single,) = Blend([ensemble], [VIEW], [1.0])([batch[:1]], [(23, 17)])
    (blended,) = Blend([ensemble] * count, [VIEW] * count, weights)([batch[:1]], [(23, 17)])
    assert torch.equal(single.probability, blended.probability)
    assert blended.gate is blended.probability
    assert single.presence == blended.presence


def test_presence_is_left_out_if_a_run_has_none(fabric, batch):
    with_head, without = (Ensemble(fabric, networks(1, kind)) for kind in (WithPresence, TinyNet))
    blend = Blend([with_head, without], [VIEW, VIEW], [0.5, 0.5])
    assert {maps.presence for maps in blend([batch], SIZES)} == {None}


def test_half_precision_still_averages_in_float32(batch):
    half = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    built = networks(2)
    probability = Ensemble(half, built, tta=TTA(hflip=True))(batch).probability
    exact = Ensemble(Fabric(accelerator="cpu", devices=1), built, tta=TTA(hflip=True))(
        batch
    ).probability
    assert probability.dtype == torch.float32
    assert 0 < (probability - exact).abs().max() < 0.02


def test_no_map_outlives_its_batch(fabric, tmp_path, monkeypatch):
    """At any time there is at most one batch of maps and one full-size map."""
    maps, alive = [], []

    class Spy(nn.Module):
        def forward(self, image):
            result = torch.full(image.shape, 0.7)
            maps.append(weakref.ref(result))
            return result

    def watch(rule, levels, *others, _mask=PostProcess.mask):
        maps.append(weakref.ref(levels))
        alive.append(sum(map_() is not None for map_ in maps))
        return _mask(rule, levels, *others)

    monkeypatch.setattr(PostProcess, "mask", watch)
    predictions, _ = run(fabric, Spy(), write_images(tmp_path, 12))
    assert len(alive) == 12
    assert max(alive) <= 3
    kept = {type(value) for prediction in predictions for value in prediction}
    assert kept <= {str, int, float}


def test_the_rule_sees_the_image_at_its_original_size(fabric, tmp_path):
    path = tmp_path / "wide.png"
    cv2.imwrite(str(path), picture(40, 90))

    def corner(image):
        result = torch.zeros(image.shape)
        result[..., :16, :16] = 0.9
        return result

    (prediction,), problems = run(fabric, corner, [InputImage("wide", path)])
    mask = decode(prediction.rle, 40, 90)
    assert not problems
    assert prediction.probability == pytest.approx(0.9)
    assert prediction.area == mask.sum()
    assert mask[:18, :43].all()
    assert not mask[22:].any()
    assert not mask[:, 47:].any()


def test_the_gate_map_decides_and_presence_is_the_score(fabric, tmp_path):
    """Of three images one passes, one fails by its gate map and one by its presence."""
    sources = write_images(tmp_path, 3)

    def maps(image):
        probability, gate = torch.zeros(2, *image.shape)
        probability[..., :16, :] = 0.8
        gate[..., :, :8] = 0.6
        gate[1] = 0.4
        return ProbabilityMaps(probability, gate, torch.tensor([0.9, 0.8, 0.3]))

    rule = PostProcess(0.7, 500, 0.5, presence_threshold=0.5)
    predictions, _ = run(fabric, maps, sources, batch_size=3, rule=rule)
    assert [prediction.area > 0 for prediction in predictions] == [True, False, False]
    mask = decode(predictions[0].rle, 64, 64)
    assert mask[:30].all()
    assert not mask[34:].any()
    assert [p.probability for p in predictions] == pytest.approx([0.9, 0.8, 0.3])

    def without_head(image):
        return maps(image)._replace(presence=None)

    predictions, _ = run(fabric, without_head, sources, batch_size=3, rule=rule)
    assert [prediction.area > 0 for prediction in predictions] == [True, False, True]
    assert [p.probability for p in predictions] == pytest.approx([0.6, 0.4, 0.6])


@pytest.mark.parametrize("part", ["probability", "gate", "presence"])
def test_every_output_must_be_a_probability(fabric, tmp_path, part):
    def maps(image):
        good = ProbabilityMaps(
            torch.zeros(image.shape), torch.zeros(image.shape), torch.zeros(len(image))
        )
        return good._replace(**{part: getattr(good, part) + 1.5})

    predictions, problems = run(fabric, maps, write_images(tmp_path, 1))
    assert not predictions
    assert "probability is 1.5" in problems[0].reason


def test_a_nan_probability_is_a_problem(fabric, tmp_path):
    sources = write_images(tmp_path, 2)
    predictions, problems = run(fabric, lambda x: torch.full(x.shape, float("nan")), sources)
    assert not predictions
    assert "image0.png" in problems[0].reason
    assert "--precision 32-true" in problems[0].reason


def test_after_an_unreadable_image_the_rest_is_only_read(fabric, tmp_path):
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


def test_batch_norm_is_folded_away_only_where_a_cpu_computes_in_bfloat16():
    half = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    single = Fabric(accelerator="cpu", devices=1, precision="32-true")
    # Two of mask and gate.
    for fabric, left in ((half, 0), (single, 2)):
        network = WithNorm()
        ensemble = Ensemble(fabric, [network], gate_networks=[WithNorm()])
        kinds = [type(module) for module in ensemble.modules()]
        assert kinds.count(nn.BatchNorm2d) == left
        assert type(network.norm) is nn.BatchNorm2d


class WithNorm(nn.Module):
    size_step = 1

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 1, 3, padding=1), nn.BatchNorm2d(1)

    def forward(self, x):
        return self.norm(self.conv(x))
