"""Gradients of depthwise convolutions, computed in float32 while the network is in bfloat16."""

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from datasets.sampling import StepPart
from models.build import build_model
from models.cpu import depthwise
from models.cpu.depthwise import FloatDepthwiseGradients
from models.interface import read_output
from utils.training.epoch import train_epoch
from utils.training.losses import build_loss

KINDS = [
    {"kernel_size": 3},
    {"kernel_size": 5, "padding": 2},
    {"kernel_size": 5, "padding": 2, "stride": 2},
    {"kernel_size": 3, "padding": (1, 0), "stride": (2, 1), "bias": True},
    {"kernel_size": 3, "padding": 4, "dilation": 4},
    {"kernel_size": 3, "padding": "same"},
]


def gradient_of(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad


def rounded(tensor):
    return tensor.to(torch.bfloat16).to(torch.float64)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_output_is_the_same_and_gradients_are_those_of_double_precision(kind):
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 6, groups=6, **{"bias": False} | kind)
    image = torch.randn(2, 6, 17, 13, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        plain = layer(image)
        with FloatDepthwiseGradients():
            output = layer(image)
    assert output.dtype == torch.bfloat16
    assert torch.equal(output, plain)
    gradient = torch.randn_like(output)
    output.backward(gradient)

    exact = nn.Conv2d(6, 6, groups=6, **{"bias": False} | kind).double()
    exact.load_state_dict({name: rounded(value) for name, value in layer.state_dict().items()})
    exact_image = rounded(image.detach()).requires_grad_()
    exact(exact_image).backward(gradient.double())
    pairs = [(image, exact_image), *zip(layer.parameters(), exact.parameters(), strict=True)]
    for tensor, exact_tensor in pairs:
        found, expected = gradient_of(tensor).double(), gradient_of(exact_tensor)
        # One rounding to bfloat16, which has 8 significant bits.
        bound = 2**-8 * expected.abs().max().item()
        torch.testing.assert_close(found, expected, rtol=2**-8, atol=bound)


def test_only_depthwise_convolutions_under_autocast_change(monkeypatch):
    calls = []
    monkeypatch.setattr(depthwise._Depthwise, "apply", lambda *args: calls.append(args))
    image = torch.randn(1, 4, 8, 8)
    with FloatDepthwiseGradients():
        nn.Conv2d(4, 4, 3, groups=4)(image)
        with torch.autocast("cpu", torch.bfloat16):
            for other in (nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(1, 4, 3)):
                other(image[:, : other.in_channels])
            with torch.no_grad():
                nn.Conv2d(4, 4, 3, groups=4)(image)
            assert not calls
            nn.Conv2d(4, 4, 3, groups=4, bias=False)(image)
    assert len(calls) == 1


def test_a_frozen_convolution_gets_no_gradient():
    layer = nn.Conv2d(4, 4, 3, groups=4, bias=False).requires_grad_(False)
    image = torch.randn(1, 4, 8, 8, requires_grad=True)
    with FloatDepthwiseGradients(), torch.autocast("cpu", torch.bfloat16):
        layer(image).sum().backward()
    assert layer.weight.grad is None
    assert image.grad is not None


def test_a_network_of_depthwise_convolutions_learns_as_without():
    torch.manual_seed(0)
    network = build_model("smp:Unet:tu-tf_efficientnet_lite0", pretrained=False).eval()
    image = torch.rand(2, 3, 64, 64)
    gradients = []
    for low in (False, True):
        network.zero_grad()
        with FloatDepthwiseGradients(), torch.autocast("cpu", torch.bfloat16, enabled=low):
            logits = read_output(network(image)).logits
        logits.float().square().mean().backward()
        gradients.append(torch.cat([gradient_of(p).flatten() for p in network.parameters()]))
    cosine = nn.functional.cosine_similarity(gradients[0], gradients[1], dim=0)
    assert cosine > 0.99


@pytest.mark.parametrize(("precision", "count"), [("bf16-mixed", 2), ("32-true", 0)])
def test_training_on_a_cpu_uses_it(monkeypatch, precision, count):
    calls = []
    apply = depthwise._Depthwise.apply

    def counting(*args):
        calls.append(args)
        return apply(*args)

    monkeypatch.setattr(depthwise._Depthwise, "apply", counting)
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    network = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, groups=3), nn.Conv2d(3, 1, 1))
    model, optimizer = fabric.setup(network, torch.optim.SGD(network.parameters(), 0.1))
    batch = (torch.zeros(1, 1, 8, 8, dtype=torch.uint8),) * 2
    part = StepPart(step_images=1, last=True)
    train_epoch(fabric, model, optimizer, [batch] * 2, [part] * 2, build_loss("bce"))
    assert len(calls) == count
