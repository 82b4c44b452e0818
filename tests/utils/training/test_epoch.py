"""A pass over training images: its loss, steps and end, and how often the host waits."""

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor

from datasets.sampling import StepPart, plan_steps
from models.interface import NetworkOutput, normalise, read_output
from tests.helpers.tiny import TinyNet, WithPresence
from utils.signals import Stopped
from utils.training.epoch import SYNC_EVERY, NonFiniteLoss, train_epoch
from utils.training.losses import bce


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


def set_up(kind=TinyNet):
    torch.manual_seed(0)
    fabric = Fabric(accelerator="cpu", devices=1)
    module = kind()
    model, optimizer = fabric.setup(module, torch.optim.SGD(module.parameters(), lr=0.1))
    model.train()
    return fabric, module, model, optimizer


def loss_of(output: NetworkOutput, mask: Tensor) -> Tensor:
    return bce(read_output(output).logits, mask)


def test_the_loss_is_the_mean_over_all_images(batches):
    """With a learning rate of 0, so that one forward pass over all images is the reference."""
    fabric, module, model, optimizer = set_up()
    module.eval()
    optimizer.param_groups[0]["lr"] = 0.0
    trained = train_epoch(fabric, model, optimizer, batches, plan_steps([4, 4, 2], 1), loss_of)
    image, mask = (torch.cat(parts) for parts in zip(*batches, strict=True))
    with torch.no_grad():
        assert trained.loss == pytest.approx(bce(module(normalise(image)), mask).item())
    assert trained.images_per_second > 0


@pytest.mark.parametrize("batches_per_step", [1, 2, 3])
def test_a_step_follows_every_group(batches, batches_per_step):
    """Against a loop with all images of a group in one batch."""
    fabric, module, model, optimizer = set_up()
    reference = TinyNet()
    reference.load_state_dict(module.state_dict())
    for network in (module, reference):
        network.eval()
    train_epoch(fabric, model, optimizer, batches, plan_steps([4, 4, 2], batches_per_step), loss_of)
    steps = torch.optim.SGD(reference.parameters(), lr=0.1)
    for start in range(0, 3, batches_per_step):
        group = zip(*batches[start : start + batches_per_step], strict=True)
        image, mask = (torch.cat(parts) for parts in group)
        bce(reference(normalise(image)), mask).backward()
        steps.step()
        steps.zero_grad()
    for ours, theirs in zip(module.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("counted", [0, 1, 3])
@pytest.mark.parametrize("with_presence", [False, True])
def test_padding_takes_part_in_batch_norm_but_not_in_the_loss(batches, counted, with_presence):
    """Against the loss of the images that count; none count where other processes have all."""
    fabric, module, model, optimizer = set_up(WithPresence if with_presence else TinyNet)
    reference = type(module)()
    reference.load_state_dict(module.state_dict())
    part = StepPart(step_images=max(1, counted), last=True, padding=4 - counted)
    trained = train_epoch(fabric, model, optimizer, batches[:1], [part], loss_of)
    image, mask = batches[0]
    logits = read_output(reference(normalise(image))).logits
    loss = bce(logits[:counted], mask[:counted]) if counted else 0 * logits.sum()
    loss.backward()
    torch.optim.SGD(reference.parameters(), lr=0.1).step()
    assert trained.loss == pytest.approx(loss.item())
    for (name, ours), theirs in zip(
        module.state_dict().items(), reference.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, msg=name)


@pytest.mark.parametrize(("count", "checks"), [(3, 1), (SYNC_EVERY, 1), (2 * SYNC_EVERY + 1, 3)])
def test_the_host_waits_for_the_device_only_at_checks(batches, monkeypatch, count, checks):
    fabric, _, model, optimizer = set_up()
    waits = []
    for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__float__"):
        real = getattr(torch.Tensor, name)

        def waiting(*args, _real=real, _name=name, **kwargs):
            waits.append(_name)
            return _real(*args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, waiting)
    train_epoch(fabric, model, optimizer, [batches[0]] * count, plan_steps([4] * count, 1), loss_of)
    assert waits == ["tolist"] * (checks + 1)


@pytest.mark.parametrize(("bad", "since", "until"), [(1, 0, SYNC_EVERY), (25, SYNC_EVERY, 30)])
def test_a_non_finite_loss_ends_the_pass_at_the_next_check(batches, bad, since, until):
    fabric, _, model, optimizer = set_up()
    steps: list[int] = []

    def loss(logits, mask):
        steps.append(len(steps))
        return bce(logits, mask) * (float("inf") if steps[-1] in (bad, bad + 2) else 1.0)

    with pytest.raises(NonFiniteLoss) as stopped:
        train_epoch(fabric, model, optimizer, [batches[0]] * 30, plan_steps([4] * 30, 1), loss)
    found = stopped.value
    assert (found.first, found.since, found.until) == (bad, since, until)
    assert len(steps) == until


@pytest.mark.parametrize("batches_per_step", [1, 2])
def test_a_stop_request_ends_the_pass_after_the_current_step(batches, batches_per_step):
    fabric, module, model, optimizer = set_up()
    requests, steps = iter([False, True]), []
    step = optimizer.step
    optimizer.step = lambda *args: steps.append(step(*args))
    with pytest.raises(Stopped):
        train_epoch(
            fabric,
            model,
            optimizer,
            [batches[0]] * 6,
            plan_steps([4] * 6, batches_per_step),
            loss_of,
            stop_requested=lambda: next(requests),
        )
    assert len(steps) == 2
    assert all(parameter.grad is None for parameter in module.parameters())


@pytest.mark.parametrize("clip", [0.0, 0.001])
def test_the_gradient_norm_of_a_step_is_clipped(batches, clip):
    """A plain SGD step with learning rate 0.1 is a tenth of its gradient."""
    fabric, module, model, optimizer = set_up()
    before = [parameter.detach().clone() for parameter in module.parameters()]
    train_epoch(
        fabric, model, optimizer, batches[:1], plan_steps([4], 1), loss_of, clip_grad_norm=clip
    )
    moves = [now - then for now, then in zip(module.parameters(), before, strict=True)]
    norm = torch.cat([move.flatten() for move in moves]).norm().item()
    if clip:
        assert norm == pytest.approx(0.1 * clip, rel=1e-2)
    else:
        assert norm > 0.001
