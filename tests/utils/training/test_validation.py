"""The validation pass: what it counts, and when."""

import threading

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from datasets.loaders import ValidBatch
from datasets.preprocessing import resize_mask
from utils.training import validation
from utils.training.losses import build_loss
from utils.training.validation import validate


class Shift(nn.Module):
    """Logits that grow with the grey level; does something before every batch."""

    def __init__(self, act):
        super().__init__()
        self.act = act

    def forward(self, x):
        self.act()
        return x[:, :1] * 4 - 1


def make_batches(count, size=8):
    rng = np.random.default_rng(3)
    for index in range(count):
        full_mask = (rng.random((12 + index, 9)) > 0.6).astype(np.uint8)
        mask = torch.from_numpy(resize_mask(full_mask, size, "nearest"))
        image = torch.from_numpy(rng.integers(0, 256, (1, 1, size, size)).astype(np.uint8))
        # Backwards, as the order of the batches is not that of the data set with several processes.
        position = torch.tensor([count - 1 - index])
        yield ValidBatch(position, image, mask[None, None], [torch.from_numpy(full_mask)])


def test_pixels_are_counted_in_threads_while_the_network_predicts(monkeypatch):
    """The first image is counted no sooner than the network has been given the second one."""
    predicted: list[None] = []
    beside: list[bool] = []
    second = threading.Event()

    def act():
        predicted.append(None)
        if len(predicted) == 2:
            second.set()

    count_levels = validation.count_levels

    def count(levels, mask):
        beside.append(second.wait(5))
        return count_levels(levels, mask)

    monkeypatch.setattr(validation, "count_levels", count)
    ids, fabric = list("abcdef"), Fabric(accelerator="cpu", devices=1)
    found = validate(fabric, Shift(act), make_batches(6), ids, build_loss("bce"), {1})
    assert beside == [True] * 6
    histograms, losses = found.histograms, []
    for batch in make_batches(6):
        (index,), (full_mask,) = batch.positions.tolist(), batch.full_masks
        with torch.inference_mode():
            logits = Shift(lambda: None)(validation.normalise(batch.image, validation.IMAGENET))
            map_ = validation.resize_probability(torch.sigmoid(logits)[0, 0], *full_mask.shape)
        target = batch.mask.double()
        chance = torch.sigmoid(logits.double())
        losses.append(-(target * chance.log() + (1 - target) * (1 - chance).log()).mean().item())
        levels = np.floor(map_.numpy() * np.float32(255)).astype(int)
        inside = levels[full_mask.numpy() == 1]
        assert (histograms.height[index], histograms.width[index]) == full_mask.shape
        assert (histograms.all[index] == np.bincount(levels.ravel(), minlength=256)).all()
        assert (histograms.mask[index] == np.bincount(inside, minlength=256)).all()
    assert found.loss == pytest.approx(np.mean(losses), rel=1e-6)
    assert [sample.index for sample in found.overlay_samples] == [1]
