"""Batch norm folded into convolutions."""

import pytest
import torch
from torch import Tensor, nn

from models.build import build_model
from models.cpu.fusion import fold_batch_norms
from models.interface import read_output


def set_statistics(network):
    """Give every batch norm statistics and weights that it would notice to be without."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.get_buffer("running_mean"), module.bias):
                nn.init.normal_(values, 0, 0.1)
            for values in (module.get_buffer("running_var"), module.weight):
                nn.init.uniform_(values, 0.5, 1.5)
    return network.eval()


def norms(network):
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize("model_type", ["unet_resnet18", "smp:Unet:tu-tf_efficientnet_lite0"])
def test_a_folded_network_predicts_the_same(model_type):
    network = set_statistics(build_model(model_type, pretrained=False))
    before = norms(network)
    folded = fold_batch_norms(network)
    assert (norms(network), norms(folded)) == (before, 0)
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        expected, found = (read_output(part(image)).logits for part in (network, folded))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


class Small(nn.Module):
    """A convolution and its batch norm."""

    size_step = 1

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, image: Tensor) -> Tensor:
        """[B,3,H,W] -> [B,3,H,W]."""
        return self.norm(self.conv(image))


class Shared(Small):
    """Reads the output of the convolution in two places."""

    def forward(self, image: Tensor) -> Tensor:
        """[B,3,H,W] -> [B,3,H,W]."""
        features = self.conv(image)
        return self.norm(features) + features.tanh()


class Recurrent(Small):
    """Applies both twice."""

    def forward(self, image: Tensor) -> Tensor:
        """[B,3,H,W] -> [B,3,H,W]."""
        return super().forward(super().forward(image))


class Demanding(Small):
    """Accepts large images only."""

    def forward(self, image: Tensor) -> Tensor:
        """[B,3,H,W] -> [B,3,H,W]."""
        assert image.shape[-1] > 1024
        return super().forward(image)


def test_what_cannot_be_folded_stays_as_it_is():
    assert norms(fold_batch_norms(set_statistics(Small()))) == 0
    for kind in (Shared, Demanding):
        network = set_statistics(kind())
        assert fold_batch_norms(network) is network
    assert norms(fold_batch_norms(set_statistics(Recurrent()))) == 1
