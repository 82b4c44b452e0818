"""A pass over training images: its loss, and that the host never waits between batches."""

import pytest
import torch
from lightning_fabric import Fabric

from datasets.batches import plan_steps
from models.inputs import normalise
from tests.tiny import TinyNet
from utils.loss import bce
from utils.training import train


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(0)
    return [
        tuple(
            torch.randint(0, high, (size, 1, 16, 16), dtype=torch.uint8, generator=generator)
            for high in (256, 2)
        )
        for size in (4, 4, 2)
    ]


def begin():
    torch.manual_seed(0)
    fabric = Fabric(accelerator="cpu", devices=1)
    module = TinyNet()
    model, optimizer = fabric.setup(module, torch.optim.SGD(module.parameters(), lr=0.1))
    model.train()
    return fabric, module, model, optimizer


def test_the_loss_is_the_mean_over_all_images(batches):
    """With a rate of 0, so that one pass over all of them gives the reference."""
    fabric, module, model, optimizer = begin()
    module.eval()
    optimizer.param_groups[0]["lr"] = 0.0
    trained = train(fabric, model, optimizer, batches, plan_steps([4, 4, 2], 1), bce)
    image, mask = (torch.cat(parts) for parts in zip(*batches, strict=True))
    with torch.no_grad():
        assert trained.loss == pytest.approx(bce(module(normalise(image)), mask).item())
    assert trained.images_per_second > 0


@pytest.mark.parametrize("group_size", [1, 2, 3])
def test_a_step_follows_every_group(batches, group_size):
    """Against a loop that gives all images of a group to the network at once."""
    fabric, module, model, optimizer = begin()
    reference = TinyNet()
    reference.load_state_dict(module.state_dict())
    for network in (module, reference):
        network.eval()
    train(fabric, model, optimizer, batches, plan_steps([4, 4, 2], group_size), bce)
    steps = torch.optim.SGD(reference.parameters(), lr=0.1)
    for start in range(0, 3, group_size):
        group = zip(*batches[start : start + group_size], strict=True)
        image, mask = (torch.cat(parts) for parts in group)
        bce(reference(normalise(image)), mask).backward()
        steps.step()
        steps.zero_grad()
    for ours, theirs in zip(module.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_host_waits_for_the_device_once(batches, monkeypatch):
    fabric, _, model, optimizer = begin()
    waits = []
    for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__float__"):
        real = getattr(torch.Tensor, name)
        monkeypatch.setattr(
            torch.Tensor,
            name,
            lambda *a, _real=real, _name=name, **k: waits.append(_name) or _real(*a, **k),
        )
    train(fabric, model, optimizer, batches, plan_steps([4, 4, 2], 1), bce)
    assert waits == ["item"]
