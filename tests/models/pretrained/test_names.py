"""Names of tensors: compared by position, as all libraries build their layers in the same order."""

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torchvision

from models.pretrained.names import is_part_of, match_names
from models.pretrained.weights import fill_encoder
from utils.errors import InputError

EFFICIENTNETS = {
    "timm": lambda: timm.create_model("efficientnet_b0"),
    "torchvision": lambda: torchvision.models.efficientnet_b0(),
    "EfficientNet-PyTorch": lambda: smp.encoders.get_encoder("efficientnet-b0"),
}


def on_meta(build):
    """Build a network without memory for its weights; return them."""
    with torch.device("meta"):
        return build().state_dict()


def encoder(name):
    return on_meta(lambda: smp.encoders.get_encoder(name))


@pytest.mark.parametrize("name", ["tu-efficientnet_b0", "efficientnet-b0"])
@pytest.mark.parametrize("kind", EFFICIENTNETS)
@pytest.mark.parametrize("wrapper", ["", "module.encoder."])
def test_efficientnets_fit_each_other(name, kind, wrapper):
    own, state = encoder(name), on_meta(EFFICIENTNETS[kind])
    found = match_names(own, [wrapper + key for key in state])
    assert [found[wrapper + key] for key in state][: len(own)] == list(own)
    assert all(
        own[found[wrapper + key]].shape == state[key].shape for key in list(state)[: len(own)]
    )
    assert not own.keys() & [found[wrapper + key] for key in state][len(own) :]


BELOW = {
    "tu-convnext_tiny": ("stages_2.blocks.8.gamma", "stages.2.blocks.9.gamma", "head.norm.bias"),
    "tu-swin_tiny": ("layers_2.blocks.5.norm1.bias", "layers.2.blocks.6.norm1.bias", "norm.bias"),
    "tu-densenet121": ("features_norm0.bias", "features.norm0.weight", "features.norm5.bias"),
    "resnet18": ("layer1.0.conv1.weight", "layer1.2.conv1.weight", "fc.weight"),
}
"""A tensor of an encoder, one that a deeper network has in the same layer, and one above it."""


@pytest.mark.parametrize("name", BELOW)
@pytest.mark.parametrize("nesting", ["", "model."])
def test_a_further_block_is_part_of_the_encoder_and_a_classifier_is_not(name, nesting):
    """Also where timm joins the first two parts of a name."""
    own, deeper, above = BELOW[name]
    assert is_part_of([nesting + own], deeper)
    assert not is_part_of([nesting + own], above)


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("tu-resnet34", torchvision.models.resnet34),
        ("resnet34", lambda: timm.create_model("resnet34")),
        ("tu-densenet121", torchvision.models.densenet121),
        ("densenet121", lambda: timm.create_model("densenet121")),
        ("tu-vgg16_bn", torchvision.models.vgg16_bn),
        ("vgg16_bn", lambda: timm.create_model("vgg16_bn")),
        ("tu-convnext_atto", lambda: timm.create_model("convnext_atto")),
    ],
)
def test_networks_fit_the_encoders_of_other_libraries(name, build):
    own, state = encoder(name), on_meta(build)
    found = match_names(own, state)
    assert [found[key] for key in state][: len(own)] == list(own)


def test_the_names_of_old_densenet_files_fit():
    own = encoder("densenet121")
    old = {key: key.replace("norm1", "norm.1").replace("conv2", "conv.2") for key in own}
    assert sum(key != name for key, name in old.items()) == 58 * 6
    found = match_names(own, old.values())
    assert all(found[name] == key for key, name in old.items())


@pytest.mark.parametrize(
    ("name", "build", "problem"),
    [
        ("resnet18", torchvision.models.resnet34, r"layer1\.2\.conv1\.weight is unexpected"),
        (
            "tu-tf_efficientnet_lite0",
            lambda: timm.create_model("tf_efficientnet_lite1"),
            r"blocks\.1\.2\.conv_pw\.weight is unexpected",
        ),
    ],
)
def test_a_deeper_network_of_the_same_family_is_refused(name, build, problem):
    """All that the encoder needs is in it, with the same names and shapes."""
    with torch.device("meta"):
        network = smp.encoders.get_encoder(name)
    with pytest.raises(InputError, match=rf"^a file: \d+ tensors do not fit .*: {problem}"):
        fill_encoder(network, on_meta(build), "a file", "advice")


def test_a_tensor_that_is_there_twice_is_refused():
    with torch.device("meta"):
        network = smp.encoders.get_encoder("resnet18")
    state = network.state_dict() | {"encoder.bn1.bias": network.state_dict()["bn1.bias"]}
    with pytest.raises(InputError, match=r"^a file: 1 tensors .* 120: bn1\.bias is there 2 times"):
        fill_encoder(network, state, "a file", "advice")
