"""Learning rates of a stage, epoch by epoch and step by step, against formulas."""

import math

import pytest
import torch
from lightning_fabric import Fabric

from tests.helpers.tiny import TinyNet
from utils.config.settings import Config
from utils.config.stages import build_stages
from utils.training.optim import Schedule, build_optimizer

STEPS = 5
"""Optimizer steps per epoch."""


def half_cosine(start, end, part):
    return end + (start - end) * (1 + math.cos(math.pi * part)) / 2


def rates(epochs=8, **settings):
    """Return the learning rate of every step of a stage."""
    config = Config(lr=0.5, epoch_stage1=epochs, epoch_stage1_freeze=0, **settings)
    stage = build_stages(config, 0.5)[0]
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([parameter], lr=stage.lr)
    schedule = Schedule(optimizer, config, stage, epochs * STEPS)
    seen = []
    for _ in range(epochs):
        for _ in range(STEPS):
            seen.append(optimizer.param_groups[0]["lr"])
            assert schedule.lr == seen[-1]
            optimizer.step()
            schedule.end_step()
        schedule.end_epoch()
    return seen


def by_epoch(values):
    return pytest.approx([value for value in values for _ in range(STEPS)], abs=1e-9)


def test_cosine_decays_to_zero_over_the_epochs():
    assert rates() == by_epoch([half_cosine(0.5, 0, e / 8) for e in range(8)])


def test_restarts_decay_repeatedly():
    expected = [half_cosine(0.5, 0, e % 3 / 3) for e in range(8)]
    assert rates(schedule="restarts", restart_epochs=3) == by_epoch(expected)


@pytest.mark.parametrize("decay", [1, 3, 8])
def test_linear_stays_then_falls_evenly_to_zero_after_the_last_epoch(decay):
    lr, expected = 0.5, []
    for epoch in range(1, 9):
        expected.append(lr)
        if epoch > 8 - decay:
            lr -= 0.5 / decay
    assert lr == pytest.approx(0)
    assert rates(schedule="linear", decay_epochs=decay) == by_epoch(expected)


def test_a_warmup_precedes_linear():
    expected = [0.5 / 3, 1 / 3, 0.5, 0.5, 0.5, 0.5, 0.5, 0.25]
    assert rates(schedule="linear", decay_epochs=2, warmup_epochs=2) == by_epoch(expected)


@pytest.mark.parametrize("schedule", ["cosine", "restarts"])
def test_a_warmup_is_linear_and_precedes_the_complete_schedule(schedule):
    more = {"restart_epochs": 3} if schedule == "restarts" else {}
    span = 3 if schedule == "restarts" else 6
    expected = [0.5 / 3, 1 / 3] + [half_cosine(0.5, 0, e % span / span) for e in range(6)]
    assert rates(schedule=schedule, warmup_epochs=2, **more) == by_epoch(expected)


def test_one_cycle_rises_and_decays_step_by_step():
    found = rates(schedule="one_cycle")
    total, peak = len(found), 0.3 * len(found) - 1
    for step, rate in enumerate(found):
        if step <= peak:
            expected = half_cosine(0.5 / 25, 0.5, step / peak)
        else:
            expected = half_cosine(0.5, 0.5 / 25 / 1e4, (step - peak) / (total - 1 - peak))
        assert rate == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"schedule": "restarts", "restart_epochs": 3},
        {"warmup_epochs": 2},
        {"schedule": "one_cycle"},
        {"schedule": "linear", "decay_epochs": 4},
        {"schedule": "linear", "decay_epochs": 4, "warmup_epochs": 2},
    ],
    ids=["cosine", "restarts", "warmup", "one_cycle", "linear", "linear after a warmup"],
)
def test_a_restored_schedule_continues_identically(settings, tmp_path):
    """Through a file, with torch's safe loader."""
    config = Config(lr=0.5, epoch_stage1=6, epoch_stage1_freeze=0, **settings)
    stage = build_stages(config, 0.5)[0]

    def set_up() -> tuple[torch.optim.Optimizer, Schedule]:
        optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=stage.lr)
        return optimizer, Schedule(optimizer, config, stage, 12)

    def run(optimizer, schedule, epochs):
        for _ in range(epochs):
            for _ in range(2):
                optimizer.step()
                schedule.end_step()
                yield schedule.lr
            schedule.end_epoch()

    uninterrupted = list(run(*set_up(), 6))
    optimizer, schedule = set_up()
    first = list(run(optimizer, schedule, 3))
    torch.save((optimizer.state_dict(), schedule.state_dict()), tmp_path / "state")
    states = torch.load(tmp_path / "state", weights_only=True)
    optimizer, schedule = set_up()
    optimizer.load_state_dict(states[0])
    schedule.load_state_dict(states[1])
    assert first + list(run(optimizer, schedule, 3)) == uninterrupted


def test_more_steps_than_planned_keep_the_last_rate():
    config = Config(schedule="one_cycle")
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = Schedule(optimizer, config, build_stages(config, 0.5)[0], 3)
    for _ in range(6):
        optimizer.step()
        schedule.end_step()
    assert 0 < schedule.lr < 0.5 / 25


@pytest.mark.parametrize(
    ("name", "kind"),
    [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)],
)
def test_optimizers_by_name(name, kind):
    config = Config(optimizer=name, momentum=0.75, weight_decay=0.125)
    fabric, net = Fabric(accelerator="cpu", devices=1), TinyNet()
    net.encoder.requires_grad_(False)
    optimizer = build_optimizer(net, fabric, config, build_stages(config, 0.5)[0])
    assert type(optimizer) is kind
    group = optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"], group["fused"]) == (0.5, 0.125, True)
    assert group.get("momentum", 0.75) == 0.75
    assert len(group["params"]) == len(list(net.parameters()))


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_a_parameter_that_joins_later_is_stepped_like_one_from_the_start(name):
    """A parameter without gradients so far, as in a frozen encoder, starts afresh when it joins."""
    config = Config(optimizer=name, momentum=0.75, weight_decay=0.125)
    fabric = Fabric(accelerator="cpu", devices=1)

    def step(optimizer, *parameters):
        for parameter in parameters:
            parameter.grad = 2 * parameter.detach() + 1
        optimizer.step()
        optimizer.zero_grad()

    def build():
        net = TinyNet()
        net.load_state_dict(start)
        optimizer = build_optimizer(net, fabric, config, build_stages(config, 0.5)[0])
        return net.encoder[0].weight, net.head.weight, optimizer

    start = TinyNet().state_dict()
    encoder, head, optimizer = build()
    for _ in range(2):
        step(optimizer, head)
    for _ in range(3):
        step(optimizer, encoder, head)
    alone, _, reference = build()
    for _ in range(3):
        step(reference, alone)
    assert torch.equal(encoder, alone)
    _, alone, reference = build()
    for _ in range(5):
        step(reference, alone)
    assert torch.equal(head, alone)
