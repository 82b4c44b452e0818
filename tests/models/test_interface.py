import pytest
import torch
from torchvision.transforms import Normalize

from models.interface import normalise
from utils.config.normalisation import Normalisation

IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OTHER = Normalisation((0.5, 0.4, 0.3), (0.5, 0.25, 1.0))


@pytest.mark.parametrize(
    ("arguments", "reference"), [((), IMAGENET), ((OTHER,), OTHER)], ids=["default", "other"]
)
def test_grey_is_normalised_like_torchvision_inputs(arguments, reference):
    grey = torch.arange(256, dtype=torch.uint8).view(2, 1, 8, 16)
    expected = Normalize(*reference)(grey.expand(-1, 3, -1, -1) / 255)
    normalised = normalise(grey, *arguments)
    assert normalised.dtype == torch.float32
    assert normalised.is_contiguous()
    torch.testing.assert_close(normalised, expected)
