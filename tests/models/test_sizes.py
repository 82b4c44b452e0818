"""Valid image sizes, and the message for invalid ones."""

import pickle

import pytest
import torch
from torch import nn

from models.build import build_model
from models.sizes import (
    add_size_check,
    check_image_size,
    check_scales,
    check_square_sizes,
    nearest_multiples,
    scaled_sizes,
)
from utils.errors import InputError


class Halver(nn.Conv2d):
    """A convolution that claims to halve the image four times."""

    size_step = 16

    def __init__(self):
        super().__init__(3, 1, 1)


@pytest.mark.parametrize(
    ("size", "step", "near"),
    [
        (1000, 32, [992, 1024]),
        (1000, 16, [992, 1008]),
        (1024, 32, [1024]),
        (10, 32, [32, 64]),
        (0, 32, [32, 64]),
        (31, 1, [31]),
    ],
)
def test_the_nearest_multiples_are_the_next_below_and_above(size, step, near):
    assert nearest_multiples(size, step) == near


@pytest.mark.parametrize(
    ("height", "width", "near"),
    [
        (1000, 1000, "992x992 or 1008x1008"),
        (1024, 1000, "1024x992 or 1024x1008"),
        (1000, 768, "992x768 or 1008x768"),
        (7, 16, "16x16 or 32x16"),
    ],
)
def test_an_invalid_size_is_refused_with_the_nearest_valid_ones(height, width, near):
    with pytest.raises(InputError, match=f"Halver .* {height}x{width} .* 16; use {near}$"):
        check_image_size(Halver(), height, width)


def test_multiples_are_accepted():
    check_image_size(Halver(), 1024, 768)


def test_every_batch_is_checked_and_parameters_keep_their_names():
    network = Halver()
    add_size_check(network)
    assert set(network.state_dict()) == {"weight", "bias"}
    for module in (network, pickle.loads(pickle.dumps(network))):
        assert module(torch.zeros(1, 3, 32, 48)).shape == (1, 1, 32, 48)
        with pytest.raises(InputError, match="32x40"):
            module(torch.zeros(1, 3, 32, 40))


@pytest.mark.parametrize(
    ("size", "near"), [(512, [464, 512, 560]), (96, [80, 96, 112]), (48, [48]), (16, [16])]
)
def test_scales_are_the_nearest_sizes_that_a_network_accepts(size, near):
    """Of 16 pixels: 460.8 and 563.2 for 512; 86.4 and 105.6 for 96."""
    assert scaled_sizes(Halver(), size) == near
    if len(near) > 1:
        check_scales(Halver(), size)
        return
    with pytest.raises(InputError, match=f"^--tta scales: has no effect at {size} pixels.* of 16"):
        check_scales(Halver(), size)


class Windows(Halver):
    """Attention in windows of 4x4 features, each of 16x16 pixels."""

    def forward(self, x):
        assert x.shape[-1] % 64 == 0, "no whole windows"
        return super().forward(x)


class OneSize(Halver):
    def forward(self, x):
        assert x.shape[-1] == 1600
        return super().forward(x)


@pytest.mark.parametrize(
    ("network", "size", "near"),
    [
        (Windows(), 144, ", such as 128 or 192"),
        (Windows(), 32, ", such as 64"),
        (OneSize(), 144, ""),
    ],
)
def test_a_multiple_that_a_network_does_not_take_is_refused_with_the_nearest_that_it_takes(
    network, size, near
):
    check_square_sizes(Windows(), [("--image_size_stage1", 128)])
    sizes = [("--image_size_stage1", 1600), ("--image_size_stage2", size)]
    expected = f"^--image_size_stage2 {size}: {type(network).__name__} cannot .*another size{near}$"
    with pytest.raises(InputError, match=expected):
        check_square_sizes(network, sizes)


def test_scales_that_a_network_does_not_take_are_refused():
    """Near 640 pixels, 576 and 704 are whole windows; near 320, 288 and 352 are not."""
    check_scales(Windows(), 640)
    with pytest.raises(InputError, match=r"320 pixels at 288 pixels, which Windows cannot"):
        check_scales(Windows(), 320)


def test_a_transformer_whose_features_must_halve_evenly_takes_no_odd_number_of_patches():
    network = build_model("smp:DPT:tu-vit_tiny_patch16_224", pretrained=False)
    check_square_sizes(network, [("--image_size_stage1", 160)])
    with pytest.raises(InputError, match=r"--image_size_stage1 144: .*size, such as 128 or 160"):
        check_square_sizes(network, [("--image_size_stage1", 144)])
    with pytest.raises(InputError, match="160 pixels at 144 pixels, which DPT cannot"):
        check_scales(network, 160)
