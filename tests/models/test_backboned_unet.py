"""The U-Net, compared with values computed once with the package backboned-unet."""

import inspect
import json
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from models import backboned_unet
from models.backboned_unet import Unet
from models.names import BACKBONES

FIXTURES = Path(__file__).parents[1] / "fixtures"
CASES: dict[tuple[str, str], dict[str, Any]] = {
    ("backboned_unet_resnet34", "transposed"): {"backbone_name": "resnet34"},
    ("backboned_unet_resnet34", "bilinear"): {
        "backbone_name": "resnet34",
        "parametric_upsampling": False,
    },
    **{
        ("backboned_unet_others", name): {"backbone_name": name}
        for name in ("resnet18", "resnet50", "vgg16", "densenet121")
    },
}


def build(backbone_name="resnet18", classes=1, **settings):
    return Unet(backbone_name, pretrained=False, classes=classes, **settings)


def build_unfilled(**settings):
    """Build on the meta device, with shapes but without weights."""
    with torch.device("meta"):
        return build(**settings)


@lru_cache(maxsize=1000)
def weight_for(key, shape):
    """Draw a weight that depends only on its name."""
    r = torch.randn(
        shape, generator=torch.Generator().manual_seed(zlib.crc32(key.encode())), dtype=torch.double
    )
    if key.endswith("num_batches_tracked"):
        return torch.tensor(0)
    if key.endswith("running_var"):
        r = 1 + 0.1 * r.abs()
    elif len(shape) == 1:
        r = 1 + 0.1 * r if key.endswith("weight") else 0.1 * r
    else:
        r = r / r[0].numel() ** 0.5
    return r.float()


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case[1])
def expected_and_network(request):
    file, case = request.param
    expected = json.loads((FIXTURES / f"{file}.json").read_text())[case]
    network = build_unfilled(**CASES[request.param])
    weights = {key: weight_for(key, tuple(v.shape)) for key, v in network.state_dict().items()}
    network.load_state_dict(weights, assign=True)
    return expected, network.double().eval()


def test_parameters_equal_those_of_the_package(expected_and_network):
    expected, network = expected_and_network
    shapes = {key: list(value.shape) for key, value in network.state_dict().items()}
    without_classifier = {k: v for k, v in expected["keys"].items() if ".fc." not in k}
    assert shapes == without_classifier


def test_outputs_equal_those_of_the_package(expected_and_network):
    expected, network = expected_and_network
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        out = network(torch.randn(1, 3, 64, 96, generator=generator, dtype=torch.double))
    assert out.shape == (1, 1, 64, 96)
    assert out.mean().item() == pytest.approx(expected["mean"], abs=1e-9)
    assert out.std().item() == pytest.approx(expected["std"], abs=1e-9)
    for position, value in expected["sample"].items():
        row, column = map(int, position.split(","))
        assert out[0, 0, row, column].item() == pytest.approx(value, abs=1e-9)


def test_resnet34_has_278_entries_and_280_in_the_package():
    file = FIXTURES / "backboned_unet_resnet34.json"
    assert len(json.loads(file.read_text())["transposed"]["keys"]) == 280
    assert len(build_unfilled(backbone_name="resnet34").state_dict()) == 278


def test_a_checkpoint_of_the_package_loads_and_its_classifier_is_reported(capsys):
    network, other = build(), build()
    state = other.state_dict()
    state |= {"backbone.fc.weight": torch.ones(1000, 512), "backbone.fc.bias": torch.ones(1000)}
    network.load_state_dict(state)
    assert "backbone.fc.weight, backbone.fc.bias" in capsys.readouterr().out
    assert "backbone.fc.weight" in state  # the caller's dict is not modified
    for key, value in other.state_dict().items():
        assert torch.equal(network.state_dict()[key], value), key


def test_other_unexpected_or_missing_parameters_are_refused():
    network = build_unfilled()
    state = network.state_dict()
    with pytest.raises(RuntimeError, match="extra"):
        network.load_state_dict({**state, "backbone.extra": torch.ones(1)})
    del state["final_conv.bias"]
    with pytest.raises(RuntimeError, match=r"final_conv\.bias"):
        network.load_state_dict(state)


def test_a_checkpoint_without_classifier_loads_silently(capsys):
    network = build()
    network.load_state_dict(network.state_dict())
    assert capsys.readouterr().out == ""


def test_the_signature_is_that_of_the_package_plus_one_keyword():
    parameters = dict(inspect.signature(Unet).parameters)
    own = parameters.pop("presence_head")
    assert (own.kind, own.default) == (inspect.Parameter.KEYWORD_ONLY, False)
    assert {name: p.default for name, p in parameters.items()} == {
        "backbone_name": "resnet50",
        "pretrained": True,
        "encoder_freeze": False,
        "classes": 21,
        "decoder_filters": (256, 128, 64, 32, 16),
        "parametric_upsampling": True,
        "shortcut_features": "default",
        "decoder_use_batchnorm": True,
    }


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_outputs_a_logit_for_each_pixel(backbone):
    network = build_unfilled(backbone_name=backbone, classes=2)
    assert network(torch.zeros(2, 3, 64, 96, device="meta")).shape == (2, 2, 64, 96)


def test_an_unknown_backbone_is_refused_with_the_known_names():
    with pytest.raises(ValueError, match="unknown backbone 'resnet35'; known: resnet18"):
        build("resnet35")


def norm_statistics(module):
    return {k: v.clone() for k, v in module.state_dict().items() if "running" in k or "num" in k}


def assert_equal_tensors(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("frozen", [False, True])
def test_building_changes_no_pretrained_weight_and_no_norm_statistic(monkeypatch, frozen):
    source = torchvision.models.resnet18(weights=None)
    for module in source.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.get_buffer("running_mean").normal_()
            module.get_buffer("num_batches_tracked").add_(7)
    asked = []

    def fetch(name):
        asked.append(name)
        return source.state_dict()

    monkeypatch.setattr(backboned_unet, "fetch_imagenet", fetch)
    network = Unet("resnet18", encoder_freeze=frozen)
    del source.fc
    assert asked == ["resnet18"]
    assert_equal_tensors(network.backbone.state_dict(), source.state_dict())


@pytest.mark.parametrize("frozen", [False, True])
def test_a_new_network_is_in_training_mode_except_a_frozen_encoder(frozen):
    network = build_unfilled(encoder_freeze=frozen)
    assert all(module.training for module in network.upsample_blocks.modules())
    assert all(module.training != frozen for module in network.backbone.modules())


@pytest.mark.parametrize("frozen", [False, True])
def test_encoder_freeze_stops_gradients_and_statistics_of_only_the_encoder(frozen):
    network = build(encoder_freeze=frozen).eval().train()
    assert network.encoder is network.backbone
    before = norm_statistics(network)
    network(torch.randn(2, 3, 32, 32)).mean().backward()
    moved = {k for k, v in norm_statistics(network).items() if not torch.equal(v, before[k])}
    learning = {name for name, p in network.named_parameters() if p.grad is not None}
    of_encoder = {key for key in before if key.startswith("backbone.")}
    assert moved == (before.keys() - of_encoder if frozen else before.keys())
    assert any(name.startswith("backbone.") for name in learning) is not frozen
    assert {n for n, _ in network.named_parameters() if not n.startswith("backbone.")} <= learning


def test_the_decoder_can_be_changed_in_width_norm_and_shortcuts():
    network = build_unfilled(
        decoder_filters=(40, 30, 20, 10, 5),
        decoder_use_batchnorm=False,
        shortcut_features=(None, None, "layer1", None, "layer3"),
        classes=3,
    )
    shapes = {k: tuple(v.shape) for k, v in network.state_dict().items() if "backbone" not in k}
    assert shapes["upsample_blocks.0.conv2.weight"] == (40, 40 + 256, 3, 3)
    assert shapes["upsample_blocks.1.conv2.weight"] == (30, 30, 3, 3)
    assert shapes["upsample_blocks.2.conv2.weight"] == (20, 20 + 64, 3, 3)
    assert shapes["upsample_blocks.4.up.bias"] == (5,)
    assert not any(".bn" in key for key in shapes)
    assert network(torch.zeros(1, 3, 64, 64, device="meta")).shape == (1, 3, 64, 64)
