"""The U-Net family: common parts and differences."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.unet_family import (
    VARIANTS,
    AttentionGate,
    DoubleConv,
    RecurrentBlock,
    RecurrentConv,
    Up,
    build_unet,
)


def build_unfilled(name, t=3):
    """Build on the meta device, with shapes but without weights."""
    with torch.device("meta"):
        return build_unet(name, t)


def count(network, kind):
    return sum(isinstance(module, kind) for module in network.modules())


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("U_Net", 34_527_041),
        ("R2U_Net", 39_091_393),
        ("AttU_Net", 34_878_573),
        ("R2AttU_Net", 39_442_925),
    ],
)
@pytest.mark.parametrize("t", [1, 3])
def test_parameter_counts_equal_those_of_the_common_implementation(name, parameters, t):
    network = build_unfilled(name, t)
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize(
    ("name", "gates", "double", "recurrent"),
    [("U_Net", 0, 9, 0), ("R2U_Net", 0, 0, 9), ("AttU_Net", 4, 9, 0), ("R2AttU_Net", 4, 0, 9)],
)
def test_the_four_differ_in_blocks_and_gates(name, gates, double, recurrent):
    network = build_unfilled(name)
    kinds = (AttentionGate, DoubleConv, RecurrentBlock)
    assert tuple(count(network, kind) for kind in kinds) == (gates, double, recurrent)
    assert set(VARIANTS) == {"U_Net", "R2U_Net", "AttU_Net", "R2AttU_Net"}


def test_the_encoder_halves_four_times():
    features = build_unfilled("U_Net").encoder(torch.empty(1, 3, 64, 96, device="meta"))
    assert [tuple(f.shape) for f in features] == [
        (1, 64 * 2**i, 64 // 2**i, 96 // 2**i) for i in range(5)
    ]


@pytest.mark.parametrize("t", [0, 1, 3])
def test_a_recurrent_convolution_adds_its_input_t_times(t):
    torch.manual_seed(0)
    module = RecurrentConv(4, t).eval()
    convolution, norm, _ = module.conv
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    x = torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        scale = 1 / (1 + norm.eps) ** 0.5
        expected = torch.zeros_like(x)
        for _ in range(1 + t):
            filtered = F.conv2d(x + expected, convolution.weight, convolution.bias, padding=1)
            expected = F.relu(filtered * scale)
        torch.testing.assert_close(module(x), expected)


def test_a_recurrent_block_adds_a_residual_to_its_two_convolutions():
    block = RecurrentBlock(3, 4, t=2).eval()
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        wide = F.conv2d(x, block.widen.weight, block.widen.bias)
        first, second = block.recurrent
        torch.testing.assert_close(block(x), wide + second(first(wide)))


@pytest.mark.parametrize("name", ["R2U_Net", "R2AttU_Net"])
def test_every_recurrent_convolution_has_the_requested_steps(name):
    network = build_unfilled(name, t=2)
    assert [m.t for m in network.modules() if isinstance(m, RecurrentConv)] == [2] * 18


def test_a_gate_weights_each_pixel_of_the_shortcut_by_both_inputs():
    torch.manual_seed(0)
    gate = AttentionGate(6).eval()
    x, shortcut = torch.randn(2, 6, 8, 8), torch.randn(2, 6, 8, 8)
    (g, norm), (s, _), w = gate.of_decoder, gate.of_shortcut, gate.weigh[1]
    assert isinstance(norm, nn.BatchNorm2d)
    assert isinstance(g, nn.Conv2d)
    assert isinstance(s, nn.Conv2d)
    assert isinstance(w, nn.Conv2d)
    with torch.no_grad():
        scale = 1 / (1 + norm.eps) ** 0.5
        both = F.conv2d(x, g.weight, g.bias) + F.conv2d(shortcut, s.weight, s.bias)
        weight = torch.sigmoid(F.conv2d(F.relu(both * scale), w.weight, w.bias) * scale)
        torch.testing.assert_close(gate(x, shortcut), shortcut * weight)
    assert weight.shape == (2, 1, 8, 8)


def test_the_gate_acts_on_only_the_shortcut():
    """An open gate changes nothing; a closed one zeroes the shortcut and nothing else."""
    torch.manual_seed(0)
    up = build_unet("AttU_Net", 1).eval().decoder[-1]
    assert isinstance(up, Up)
    assert up.gate is not None
    x, shortcut = torch.randn(1, 128, 4, 4), torch.randn(1, 64, 8, 8)
    of_gate = up.gate.weigh.get_parameter("2.bias")
    with torch.no_grad():
        for bias, passed in ((1000.0, shortcut), (-1000.0, torch.zeros_like(shortcut))):
            of_gate.fill_(bias)
            expected = up.block(torch.cat([passed, up.up(x)], dim=1))
            torch.testing.assert_close(up(x, shortcut), expected)
