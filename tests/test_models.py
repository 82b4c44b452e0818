"""What every network has to hold to, whichever it is."""

import pytest
import torch
import torchvision
from torch import nn

from models import backboned_unet, build_model, model_types
from utils.errors import InputError


@pytest.fixture(scope="module", params=model_types())
def network(request):
    torch.manual_seed(0)
    return build_model(request.param, pretrained=False)


def test_the_original_network_is_known():
    assert "unet_resnet34" in model_types()
    assert model_types() == sorted(model_types())


def test_images_become_a_logit_for_each_pixel(network):
    with torch.no_grad():
        assert network.eval()(torch.zeros(2, 3, 64, 96)).shape == (2, 1, 64, 96)


def test_an_untrained_network_finds_about_one_pixel_in_a_hundred(network):
    with torch.no_grad():
        probability = torch.sigmoid(network.train()(torch.randn(2, 3, 64, 64)))
    assert 0.003 < probability.mean() < 0.03


@pytest.mark.parametrize(("prior", "expected"), [(0.2, 0.2), (0.0, 1e-4), (1.0, 1 - 1e-4)])
def test_the_last_bias_is_the_prior_kept_off_certainty(prior, expected):
    built = build_model("unet_resnet34", pretrained=False, prior=prior)
    assert torch.sigmoid(built.final_conv.bias).item() == pytest.approx(expected, rel=1e-3)


def test_the_encoder_is_a_part_of_the_network_or_none(network):
    if network.encoder is None:
        pytest.skip("has no encoder")
    own = {id(parameter) for parameter in network.parameters()}
    of_encoder = {id(parameter) for parameter in network.encoder.parameters()}
    assert isinstance(network.encoder, nn.Module)
    assert of_encoder
    assert of_encoder < own


def test_every_weight_takes_part(network):
    """DDP waits for the gradient of a weight that has none."""
    network.zero_grad()
    network.train()(torch.randn(2, 3, 64, 64)).mean().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", ["unet_resnet43", "resnet34", "UNET", ""])
def test_an_unknown_name_is_answered_with_the_nearest(name):
    with pytest.raises(InputError, match=r"did you mean 'unet_resnet34'.*Known: .*unet_resnet34"):
        build_model(name)


def test_a_file_of_encoder_weights_replaces_the_fetched_ones(tmp_path, monkeypatch, capsys):
    def refuse(name):
        raise AssertionError("no network is needed")

    monkeypatch.setattr(backboned_unet, "fetch_imagenet", refuse)
    source = torchvision.models.resnet34(weights=None)
    torch.save(source.state_dict(), tmp_path / "resnet34.pth")
    built = build_model("unet_resnet34", True, tmp_path / "resnet34.pth")
    assert "unexpected ['fc.bias', 'fc.weight']" in capsys.readouterr().out
    for key, value in built.encoder.state_dict().items():
        assert torch.equal(value, source.state_dict()[key]), key


def test_pretrained_fetches_the_weights_of_the_backbone(monkeypatch):
    source = torchvision.models.resnet34(weights=None).state_dict()
    asked = []
    monkeypatch.setattr(backboned_unet, "fetch_imagenet", lambda name: asked.append(name) or source)
    built = build_model("unet_resnet34")
    assert asked == ["resnet34"]
    assert torch.equal(built.encoder.state_dict()["conv1.weight"], source["conv1.weight"])
