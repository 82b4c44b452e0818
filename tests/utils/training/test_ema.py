"""The moving average of weights, against a loop over plain numbers."""

import pytest
import torch

from tests.helpers.tiny import TinyNet
from utils.training.ema import MovingAverage


def change(net, generator):
    """Change every weight and batch-norm statistic."""
    with torch.no_grad():
        for value in net.state_dict().values():
            value.add_(torch.randint(1, 5, value.shape, generator=generator).to(value.dtype))


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_the_average_follows_its_formula(decay):
    generator = torch.Generator().manual_seed(0)
    net = TinyNet()
    average = MovingAverage(net, decay)
    expected: dict[str, torch.Tensor] = {}
    for step in range(12):
        change(net, generator)
        average.update(net)
        now = {k: v.double().clone() for k, v in net.state_dict().items()}
        part = min(decay, (1 + step) / (10 + step))
        # Before the first step there is nothing to average with.
        expected = (expected and {k: part * expected[k] + (1 - part) * now[k] for k in now}) or now
    for key, value in average.module.state_dict().items():
        if value.dtype.is_floating_point:
            torch.testing.assert_close(value.double(), expected[key], rtol=1e-5, atol=1e-5)
    assert not torch.equal(average.module.get_parameter("head.weight"), net.head.weight)


def test_the_average_shares_no_weights_with_the_network():
    net = TinyNet()
    average = MovingAverage(net, 0.9)
    average.update(net)
    before = average.module.get_parameter("head.weight").clone()
    change(net, torch.Generator().manual_seed(0))
    assert torch.equal(average.module.get_parameter("head.weight"), before)


def test_a_restored_average_continues_identically():
    generator = torch.Generator().manual_seed(0)
    net = TinyNet()
    one = MovingAverage(net, 0.9)
    for _ in range(3):
        change(net, generator)
        one.update(net)
    other = MovingAverage(TinyNet(), 0.9)
    other.load(one.module.state_dict(), one.steps)
    for _ in range(3):
        change(net, generator)
        one.update(net)
        other.update(net)
    for a, b in zip(
        one.module.state_dict().values(), other.module.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b)
