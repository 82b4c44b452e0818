"""The cost of networks is measured correctly."""

import torch
from torch import nn

from benchmarks.models import measure, multiply_adds


def test_multiply_adds_of_a_convolution():
    image = torch.zeros(1, 3, 8, 8)
    assert multiply_adds(nn.Conv2d(3, 4, 3, padding=1), image) == 8 * 8 * 4 * 3 * 3 * 3


def test_a_network_is_measured_in_every_column():
    row = measure("unet_resnet18", 32)
    assert row["parameters"] == 15.550225
    assert min(row["multiply_adds"], row["forward"], row["memory"]) > 0
    assert row["training"] > 0
