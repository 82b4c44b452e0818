"""Properties that every network must have."""

import copy
from typing import NamedTuple

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from models import backboned_unet, build
from models.build import build_model
from models.names import model_types
from models.unet_family import VARIANTS
from utils.errors import InputError

NETWORKS = [
    *VARIANTS,
    *(f"unet_{backbone}" for backbone in ("resnet34", "vgg16", "densenet121")),
    "linknet",
    "deeplabv3plus",
    "smp:Unet:se_resnext50_32x4d",
    "smp:UnetPlusPlus:tu-efficientnet_b4",
    "smp:Unet:efficientnet-b0",
]
"""One for each way of building a network; test_backboned_unet.py runs every backbone."""


def batch() -> tuple[Tensor, Tensor]:
    """Return images [2,3,64,64] and masks [2,1,64,64] that can be learned from them."""
    mask = torch.zeros(2, 1, 64, 64)
    mask[0, :, 10:40, 20:50] = 1
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 64, 64, generator=generator) + 2 * mask, mask


def loss_of(logits: Tensor) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(logits, batch()[1])


@torch.no_grad()
def predict(network: nn.Module) -> Tensor:
    return network.eval()(batch()[0])


def larger_than_1000(name: str) -> int:
    """Return the smallest valid side above 1000 pixels: a multiple of 16 or of 32."""
    return 1008 if name in {*VARIANTS, "deeplabv3plus"} else 1024


class Trained(NamedTuple):
    """A network after a training step, with observations from that step."""

    name: str
    network: nn.Module
    first_output: Tensor
    without_gradient: list[str]
    predicted: Tensor


@pytest.fixture(scope="module", params=NETWORKS)
def trained(request):
    torch.manual_seed(0)
    network = build_model(request.param, pretrained=False, t=1)
    network.encoder.requires_grad_(False).requires_grad_(True)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    output = network.train()(batch()[0])
    loss_of(output).backward()
    optimizer.step()
    lacking = [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None]
    return Trained(request.param, network, output.detach(), lacking, predict(network))


class TestEveryNetwork:
    def test_the_output_is_a_logit_for_each_pixel(self, trained):
        assert trained.first_output.shape == (2, 1, 64, 64)
        assert trained.first_output.dtype == torch.float32

    def test_an_untrained_network_predicts_about_one_pixel_in_a_hundred(self, trained):
        assert 0.003 < torch.sigmoid(trained.first_output).mean() < 0.03

    def test_every_parameter_gets_a_gradient_even_after_thawing(self, trained):
        """DDP waits for the gradient of every parameter that requires one."""
        assert trained.without_gradient == []
        assert all(parameter.requires_grad for parameter in trained.network.parameters())

    def test_evaluation_is_deterministic(self, trained):
        assert torch.equal(predict(trained.network), trained.predicted)

    def test_a_checkpoint_restores_it(self, trained, tmp_path):
        torch.save(trained.network.state_dict(), tmp_path / "network.pth")
        other = copy.deepcopy(trained.network)
        for value in other.state_dict().values():
            value.zero_()
        other.load_state_dict(torch.load(tmp_path / "network.pth"))
        assert torch.equal(predict(other), trained.predicted)

    def test_channels_last_changes_nothing(self, trained):
        network = copy.deepcopy(trained.network).to(memory_format=torch.channels_last)
        torch.testing.assert_close(predict(network), trained.predicted, rtol=1e-4, atol=1e-4)

    def test_a_training_step_lowers_the_loss(self, trained):
        with torch.no_grad():
            output = copy.deepcopy(trained.network).train()(batch()[0])
        assert loss_of(output) < loss_of(trained.first_output)

    def test_a_frozen_encoder_does_not_change_while_the_rest_learns(self, trained):
        network = copy.deepcopy(trained.network)
        before = {key: value.clone() for key, value in network.state_dict().items()}
        network.encoder.requires_grad_(False)
        network.train()
        network.encoder.eval()
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        loss_of(network(batch()[0])).backward()
        optimizer.step()
        moved = {k for k, v in network.state_dict().items() if not torch.equal(v, before[k])}
        (prefix,) = (n for n, m in network.named_modules() if n and m is network.encoder)
        assert not {key for key in moved if key.startswith(f"{prefix}.")}
        rest = {n for n, _ in network.named_parameters() if not n.startswith(f"{prefix}.")}
        assert rest <= moved
        assert rest < before.keys()

    def test_an_invalid_size_is_refused_with_the_nearest_valid_ones(self, trained):
        larger = larger_than_1000(trained.name)
        with pytest.raises(InputError, match=rf"1000x1000 .* use 992x992 or {larger}x{larger}$"):
            trained.network(torch.empty(1, 3, 1000, 1000, device="meta"))
        with pytest.raises(InputError, match=rf"1000x768 .* use 992x768 or {larger}x768$"):
            trained.network(torch.empty(1, 3, 1000, 768, device="meta"))

    def test_valid_sizes_are_accepted(self, trained):
        network = copy.deepcopy(trained.network).to("meta")
        for height, width in ((1024, 768), (992, larger_than_1000(trained.name))):
            image = torch.empty(1, 3, height, width, device="meta")
            assert network.eval()(image).shape == (1, 1, height, width)


def test_the_names_include_those_of_the_original_and_all_backbones():
    originals = {"U_Net", "R2U_Net", "AttU_Net", "R2AttU_Net", "unet_resnet34"}
    assert originals | {"linknet", "deeplabv3plus"} < set(model_types())
    assert [*VARIANTS, *build._PRETRAINED] == model_types()
    assert len(set(model_types())) == len(model_types()) == 17
    assert set(NETWORKS) < {*model_types(), *(n for n in NETWORKS if n.startswith("smp:"))}


@pytest.mark.parametrize(("prior", "expected"), [(0.2, 0.2), (0.0, 1e-4), (1.0, 1 - 1e-4)])
def test_the_last_bias_is_the_prior_limited_to_avoid_certainty(prior, expected):
    built = build_model("unet_resnet18", pretrained=False, prior=prior)
    assert torch.sigmoid(built.get_parameter("final_conv.bias")).item() == pytest.approx(
        expected, rel=1e-3
    )


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("unet_resnet43", "unet_resnet34"),
        ("resnet34", "unet_resnet34"),
        ("UNet", "U_Net"),
        ("DeepLabV3Plus", "deeplabv3plus"),
        ("smp", "smp:ARCHITECTURE:ENCODER"),
        ("smp:Unet", "smp:ARCHITECTURE:ENCODER"),
        ("smp:Unet:resnet34:x", "smp:ARCHITECTURE:ENCODER"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_known(name, near):
    with pytest.raises(InputError, match=rf"did you mean '{near}'.*Known: .*unet_resnet34"):
        build_model(name)


@pytest.mark.parametrize("name", ["unet_resnet18", "unet_vgg16", "unet_densenet121", "linknet"])
def test_a_torchvision_file_replaces_the_fetched_weights(name, tmp_path, monkeypatch, capsys):
    def refuse(name):
        raise AssertionError("nothing must be downloaded")

    monkeypatch.setattr(backboned_unet, "fetch_imagenet", refuse)
    backbone = {"linknet": "resnet34", "unet_vgg16": "vgg16_bn"}.get(name, name[5:])
    with torch.device("meta"):
        shapes = torchvision.models.get_model(backbone, weights=None).state_dict()
    classifier = {key for key in shapes if key.startswith(("fc.", "classifier."))}
    state = {k: torch.rand(v.shape).to(v.dtype) for k, v in shapes.items() if k not in classifier}
    torch.save(state | dict.fromkeys(classifier, torch.ones(1)), tmp_path / "weights.pth")
    built = build_model(name, True, tmp_path / "weights.pth")
    output = capsys.readouterr().out
    assert f"{len(state)} tensors loaded, {len(classifier)} left out" in output
    for key, value in built.get_submodule("encoder").state_dict().items():
        assert torch.equal(value, state[key if key in state else f"features.{key}"]), key


@pytest.mark.parametrize("name", ["U_Net", "smp:Unet:tu-resnet10t"])
def test_the_encoder_of_a_checkpoint_is_loaded_into_the_same_kind_of_network(name, tmp_path):
    source = build_model(name, pretrained=False)
    torch.save({"state_dict": source.state_dict(), "epoch": 3}, tmp_path / "stage1_best.pth")
    built = build_model(name, True, tmp_path / "stage1_best.pth")
    expected = source.get_submodule("encoder").state_dict()
    for key, value in built.get_submodule("encoder").state_dict().items():
        assert torch.equal(value, expected[key]), key


def test_a_timm_state_dict_is_loaded_into_a_timm_encoder(tmp_path):
    state = timm.create_model("resnet10t").state_dict()
    torch.save(state, tmp_path / "resnet10t.pth")
    built = build_model("smp:Unet:tu-resnet10t", True, tmp_path / "resnet10t.pth")
    for key, value in built.get_submodule("encoder.model").state_dict().items():
        assert torch.equal(value, state[key]), key


def test_a_file_of_another_network_is_refused(tmp_path):
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(InputError, match=r"resnet18\.pth: .* tensors do not fit the enc"):
        build_model("U_Net", True, tmp_path / "resnet18.pth")


def test_pretrained_fetches_the_weights_of_the_backbone(monkeypatch):
    source = torchvision.models.resnet18(weights=None).state_dict()
    fetched = []

    def fetch(name):
        fetched.append(name)
        return source

    monkeypatch.setattr(backboned_unet, "fetch_imagenet", fetch)
    built = build_model("unet_resnet18")
    assert fetched == ["resnet18"]
    assert torch.equal(built.get_parameter("encoder.conv1.weight"), source["conv1.weight"])


def test_a_network_without_pretrained_weights_prints_a_warning(capsys):
    build_model("U_Net")
    assert "no pretrained weights for U_Net" in capsys.readouterr().out


def test_the_recurrent_steps_are_passed_to_the_network():
    steps = {
        m.t for m in build_model("R2U_Net", pretrained=False, t=2).modules() if hasattr(m, "t")
    }
    assert steps == {2}
