"""The presence head: a second output, whether there is a mask at all."""

import copy
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from models.build import build_model
from models.interface import read_output
from models.unet_family import VARIANTS
from models.unused import unused_to_buffers
from utils.errors import InputError

NETWORKS = [
    "unet_resnet18",
    "unet_vgg16",
    "unet_densenet121",
    "linknet",
    "deeplabv3plus",
    "smp:Unet:se_resnext50_32x4d",
    "smp:UnetPlusPlus:tu-resnet10t",
]
"""One for each way of building a network with a head."""

ARCHITECTURES = {
    a.__name__: "tu-vit_tiny_patch16_224" if a is smp.DPT else "resnet18"
    for a in smp._MODEL_ARCHITECTURES
}
HEADS = ("presence_head.", "classification_head.")


def build(model_type: str, presence_head: bool = True, **settings: Any) -> nn.Module:
    torch.manual_seed(0)
    return build_model(model_type, pretrained=False, presence_head=presence_head, **settings)


def images(count: int = 2, side: int = 64) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def of_head(name: str) -> bool:
    return name.startswith(HEADS)


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    return build(request.param).train()


@pytest.fixture(scope="module")
def small():
    return build("unet_resnet18").eval()


class TestEveryNetwork:
    def test_the_output_is_a_logit_for_each_pixel_and_one_for_the_image(self, network):
        logits, presence = network(images(3))
        assert (logits.shape, presence.shape) == ((3, 1, 64, 64), (3, 1))
        assert logits.dtype == presence.dtype == torch.float32

    def test_masks_start_at_their_prior_and_presence_at_one_half(self, network):
        """If the prior were set on the wrong layer, masks would start near one half."""
        output = read_output(network(images()))
        assert 0.003 < torch.sigmoid(output.logits).mean() < 0.03
        assert output.presence is not None
        assert 0.1 < torch.sigmoid(output.presence).mean() < 0.9

    def test_presence_trains_only_encoder_and_head(self, network):
        network.zero_grad()
        network(images())[1].sum().backward()
        reached = {n: p.grad for n, p in network.named_parameters() if p.grad is not None}
        encoder = {id(p) for p in network.encoder.parameters()}
        names = {n for n, p in network.named_parameters() if id(p) in encoder or of_head(n)}
        assert reached.keys() == names
        # Some encoders start with residual branches weighted by zero.
        assert sum(bool(gradient.any()) for gradient in reached.values()) > 0.5 * len(names)

    def test_every_parameter_gets_a_gradient_from_both_outputs(self, network):
        """DDP waits for the gradient of every parameter that requires one."""
        network.zero_grad()
        sum(part.sum() for part in network(images())).backward()
        assert [name for name, p in network.named_parameters() if p.grad is None] == []

    def test_the_head_adds_two_tensors_and_keeps_the_other_names(self, network, request):
        plain = build(request.node.callspec.params["network"], presence_head=False)
        own = network.state_dict()
        assert isinstance(plain(images()), Tensor)
        assert list(plain.state_dict()) == [name for name in own if not of_head(name)]
        assert sum(map(of_head, own)) == 2

    def test_masks_equal_those_of_the_network_without_a_head(self, network, request):
        plain = build(request.node.callspec.params["network"], presence_head=False).eval()
        other = copy.deepcopy(network).eval()
        other.load_state_dict(plain.state_dict(), strict=False)
        with torch.no_grad():
            assert torch.equal(other(images())[0], plain(images()))

    def test_presence_is_deterministic_only_in_evaluation_mode(self, network):
        """Because of dropout: batch norm alone returns the same output for the same batch."""
        with torch.no_grad():
            evaluated = copy.deepcopy(network).eval()
            assert torch.equal(evaluated(images())[1], evaluated(images())[1])
            drawn = {tuple(network(images())[1].flatten().tolist()) for _ in range(4)}
            assert len(drawn) > 1


@pytest.mark.parametrize(("architecture", "encoder"), ARCHITECTURES.items())
def test_every_architecture_of_the_package_can_have_a_head(architecture, encoder):
    network = build(f"smp:{architecture}:{encoder}").to("meta")
    logits, presence = network(torch.empty(2, 3, 128, 192, device="meta"))
    assert (logits.shape, presence.shape) == ((2, 1, 128, 192), (2, 1))


@pytest.mark.parametrize("name", VARIANTS)
def test_a_network_that_cannot_have_a_head_is_refused_with_those_that_can(name):
    match = rf"--presence_weight .*, which {name} cannot .*unet_resnet34.*linknet.*smp:.*weight 0$"
    with pytest.raises(InputError, match=match):
        build(name)


def test_an_unknown_name_is_refused_with_the_nearest_known():
    with pytest.raises(InputError, match="did you mean 'unet_resnet34'"):
        build("unet_resnet43")


@pytest.mark.parametrize("name", ["unet_resnet18", "smp:Unet:resnet18"])
def test_presence_is_a_linear_function_of_the_mean_of_the_deepest_features(name):
    network = build(name).eval()
    weight, bias = (p for n, p in network.named_parameters() if of_head(n))
    with torch.no_grad():
        expected = (
            deepest(network.get_submodule("encoder"), images()).mean(dim=(2, 3)) @ weight.T + bias
        )
        torch.testing.assert_close(network(images())[1], expected)


def deepest(encoder: nn.Module, x: Tensor) -> Tensor:
    """Run a ResNet up to its last stage."""
    for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"):
        x = encoder.get_submodule(name)(x)
    return x


def test_outputs_are_named_with_and_without_a_head(small):
    logits, presence = small(images())
    assert read_output((logits, presence)) == (logits, presence)
    plain = read_output(logits)
    assert plain.logits is logits
    assert plain.presence is None


def test_an_invalid_size_is_refused(small):
    with pytest.raises(InputError, match="use 64x64 or 96x96"):
        small(torch.zeros(1, 3, 70, 70))


def test_parameters_that_only_presence_uses_stay_parameters():
    class Shallow(nn.Module):
        """Computes its mask from only the first layer."""

        size_step = 1

        def __init__(self):
            super().__init__()
            self.first, self.mask = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 1, 1)
            self.deep, self.unused = nn.Conv2d(4, 1, 1), nn.Conv2d(4, 1, 1)

        def forward(self, x):
            x = self.first(x)
            return self.mask(x), self.deep(x).mean(dim=(2, 3))

    network = Shallow()
    unused_to_buffers(network)
    kept = {name.split(".")[0] for name, _ in network.named_parameters()}
    assert kept == {"first", "mask", "deep"}


def test_with_a_frozen_encoder_presence_trains_the_head():
    network = build("unet_resnet18")
    network.encoder.requires_grad_(False)
    network(images())[1].sum().backward()
    learning = {name for name, p in network.named_parameters() if p.grad is not None}
    assert learning == {"presence_head.3.weight", "presence_head.3.bias"}


@pytest.fixture
def process_group():
    """A process group with one process."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("name", ["unet_resnet18", "smp:Unet:resnet18"])
def test_plain_ddp_needs_a_loss_of_both_outputs(name, process_group):
    network = DistributedDataParallel(build(name))
    for _ in range(3):
        sum(part.sum() for part in network(images())).backward()
    network(images())[0].sum().backward()
    with pytest.raises(RuntimeError, match="finished reduction"):
        network(images())


@pytest.mark.slow
def test_it_can_be_compiled(small):
    compiled = copy.deepcopy(small)
    compiled.compile(backend="aot_eager")
    with torch.no_grad():
        for part, expected in zip(compiled(images()), small(images()), strict=True):
            torch.testing.assert_close(part, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["unet_resnet18", "smp:Unet:resnet18"])
def test_both_outputs_can_be_exported_by_name(name, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    network = build(name).eval()
    path = str(tmp_path / "both.onnx")
    names = ["logits", "presence"]
    torch.onnx.export(network, (images(),), path, dynamo=True, output_names=names, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == names
    outputs = session.run(None, {session.get_inputs()[0].name: images().numpy()})
    with torch.no_grad():
        for part, expected in zip(outputs, network(images()), strict=True):
            torch.testing.assert_close(torch.from_numpy(part), expected, rtol=1e-3, atol=1e-3)
