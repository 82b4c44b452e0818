"""Parameters that do not affect the output."""

import pytest
import torch
from torch import nn

from models.unused import unused_to_buffers
from utils.errors import InputError


class WithClassifier(nn.Module):
    """Has a norm and a classifier that its output does not depend on."""

    size_step = 32

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.encoder.rest = nn.ModuleDict({"norm": nn.BatchNorm2d(4), "fc": nn.Linear(4, 2)})
        self.head = nn.Conv2d(4, 1, 1)

    def forward(self, x):
        for module in list(self.encoder)[:2]:
            x = module(x)
        return self.head(x)


UNUSED = {f"encoder.rest.{n}" for n in ("norm.weight", "norm.bias", "fc.weight", "fc.bias")}


def test_unused_parameters_require_no_gradient_even_when_thawed():
    network = WithClassifier()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    own = {name for name, _ in network.named_parameters()}
    with torch.no_grad():
        unused_to_buffers(network)
    network.requires_grad_(False).requires_grad_(True)
    assert {name for name, _ in network.named_parameters()} == own - UNUSED
    after = network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_the_trial_draws_no_random_numbers():
    network = WithClassifier()
    state = torch.get_rng_state()
    unused_to_buffers(network)
    assert torch.equal(torch.get_rng_state(), state)
    assert network.training


def test_a_network_with_a_fixed_image_size_is_refused():
    network = WithClassifier()
    network.head = nn.Conv2d(5, 1, 1)
    with pytest.raises(InputError, match=r"cannot take an image of 512x512 \(.+\); choose an enc"):
        unused_to_buffers(network)
