"""The measurement behind the rules for --precision and --memory_format."""

import re

import torch
from torch import nn

from benchmarks.speed import arithmetic
from tests.helpers.tiny import build_tiny


def test_every_arithmetic_of_a_network_is_measured(monkeypatch, capsys):
    monkeypatch.setattr(arithmetic, "build_model", build_tiny)
    threads = str(torch.get_num_threads())
    arithmetic.main(
        ["--size", "32", "--rounds", "1", "--threads", threads, "--models", "unet_resnet34"]
    )
    row = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"\| `unet_resnet34` \| 0 of 2 \| (\d+, ){4}\d+ \| (\d+, ){3}\d+ \|", row)


def test_a_convolution_is_depthwise_if_each_input_channel_has_its_own():
    kinds = [(4, 8, 4), (4, 4, 2), (1, 4, 1), (4, 4, 1)]
    network = nn.Sequential(*(nn.Conv2d(i, o, 3, groups=groups) for i, o, groups in kinds))
    assert arithmetic.depthwise_convolutions(network) == (1, 4)
