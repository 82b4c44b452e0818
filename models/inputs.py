"""What a network is fed: the last step of preprocessing, done on the device."""

import torch
from torch import Tensor

# Mean and deviation of ImageNet in RGB, as torchvision's pretrained networks expect them.
_MEAN = torch.tensor((0.485, 0.456, 0.406)).view(1, 3, 1, 1)
_STD = torch.tensor((0.229, 0.224, 0.225)).view(1, 3, 1, 1)
_SCALE, _SHIFT = 1 / (255 * _STD), -_MEAN / _STD


def normalise(image: Tensor) -> Tensor:
    """[B,1,H,W] uint8 grey -> [B,3,H,W] float32 of ImageNet's mean and deviation."""
    # A blocking copy would make the host wait for all that the device has still to do.
    scale, shift = (part.to(image.device, non_blocking=True) for part in (_SCALE, _SHIFT))
    return torch.addcmul(shift, image.float(), scale)
