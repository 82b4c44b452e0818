"""Networks that cannot be trained on a single image, found without computing."""

import pytest
import torch

from models.build import build_model
from models.interface import read_output
from models.trial import check_single_images, trial_output
from utils.errors import InputError


def is_refused(network, side):
    try:
        check_single_images(network, [("--batch_size_stage1 1", side)])
    except InputError as error:
        return f"--batch_size_stage1 1: a process would train on one image of {side}" in str(error)
    return False


@pytest.mark.parametrize(
    ("model_type", "side", "refused"),
    [
        ("deeplabv3plus", 64, True),
        ("smp:PAN:resnet18", 128, True),
        ("unet_resnet18", 64, False),
        ("unet_resnet18", 32, True),
        ("U_Net", 16, True),
    ],
)
def test_a_network_is_refused_if_and_only_if_it_cannot_train_on_one_image(
    model_type, side, refused
):
    network = build_model(model_type, pretrained=False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert is_refused(network, side) == refused
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    image = torch.randn(1, 3, side, side)
    with torch.no_grad():
        if refused:
            with pytest.raises(ValueError, match="more than 1 value per channel"):
                network.train()(image)
        network.train(not refused)(image)  # validation needs one image only


def test_a_trial_has_the_shapes_of_a_computation():
    network = build_model("unet_resnet18", pretrained=False, presence_head=True)
    parameters, output = trial_output(network, 2, 64)
    assert {n: p.shape for n, p in parameters.items()} == {
        name: parameter.shape for name, parameter in network.named_parameters()
    }
    computed = read_output(network(torch.zeros(2, 3, 64, 64)))
    for ours, theirs in zip(read_output(output), computed, strict=True):
        assert ours is not None
        assert theirs is not None
        assert ours.shape == theirs.shape


def test_an_image_that_is_too_small_for_a_network_is_refused():
    network = build_model("smp:PAN:resnet18", pretrained=False)
    with pytest.raises(InputError, match="PAN cannot take an image of 64x64"):
        trial_output(network, 2, 64)
