"""What a network is fed: the last step of preprocessing, done on the device."""

import torch
from torch import Tensor

# Mean and deviation of ImageNet in RGB, as torchvision's pretrained networks expect them.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


def normalise(image: Tensor) -> Tensor:
    """[B,1,H,W] uint8 grey -> [B,3,H,W] float32 of ImageNet's mean and deviation."""
    mean = torch.tensor(_MEAN, device=image.device).view(1, 3, 1, 1)
    std = torch.tensor(_STD, device=image.device).view(1, 3, 1, 1)
    return (image.float() / 255 - mean) / std
