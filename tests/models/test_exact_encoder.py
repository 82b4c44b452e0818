"""Encoders of depthwise convolutions, which stay in float32 under bfloat16 autocast."""

import copy

import pytest
import torch
from lightning_fabric import Fabric

from models.build import build_model
from models.exact_encoder import compute_encoder_in_float32
from models.interface import encoder_of
from utils.inference.ensemble import Ensemble

LITE, RESNET = "smp:Unet:tu-tf_efficientnet_lite0", "unet_resnet18"


def features_of(network, image):
    """Return what the encoder hands on while the network predicts in bfloat16."""
    found: list = []
    hook = network.encoder.register_forward_hook(lambda *args: found.extend(args[-1]))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        network(image)
    hook.remove()
    return found


def test_the_encoder_computes_what_it_does_in_float32_and_the_decoder_does_not():
    network = build_model(LITE, pretrained=False).eval()
    exact = copy.deepcopy(network)
    compute_encoder_in_float32(exact, "cpu")
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        encoder = encoder_of(network)
        assert encoder is not None
        expected = encoder(image)
        logits = network(image)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = exact(image)
    found = features_of(exact, image)
    assert all(map(torch.equal, found, expected))
    assert not any(map(torch.equal, features_of(network, image)[1:], expected[1:]))
    assert not torch.equal(mixed.float(), logits)


def test_other_encoders_are_left_as_they_are():
    network = build_model(RESNET, pretrained=False).eval()
    image = torch.rand(1, 3, 64, 64)
    before = features_of(network, image)
    compute_encoder_in_float32(network, "cpu")
    assert all(map(torch.equal, features_of(network, image), before))
    compute_encoder_in_float32(torch.nn.Conv2d(3, 3, 3, groups=3), "cpu")


@pytest.mark.parametrize(("precision", "used"), [("bf16-mixed", True), ("32-true", False)])
def test_predictions_in_bfloat16_use_it(precision, used):
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    ensemble = Ensemble(fabric, [build_model(LITE, pretrained=False)])
    features = features_of(ensemble.networks[0], torch.rand(1, 3, 64, 64))
    assert ({feature.dtype for feature in features} == {torch.float32}) == used
