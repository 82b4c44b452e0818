import torch
from torchvision.transforms import Normalize

from models.interface import normalise

IMAGENET = Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def test_grey_is_normalised_like_torchvision_inputs():
    grey = torch.arange(256, dtype=torch.uint8).view(2, 1, 8, 16)
    expected = IMAGENET(grey.expand(-1, 3, -1, -1) / 255)
    normalised = normalise(grey)
    assert normalised.dtype == torch.float32
    assert normalised.is_contiguous()
    torch.testing.assert_close(normalised, expected)
