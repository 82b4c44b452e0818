"""The baseline: the processing steps of the original repository, with current libraries.

Training images are decoded to RGB, get CLAHE and augmentation on three channels at the original
size, are resized and converted to float32. Test images are predicted one at a time in float32,
resized with OpenCV and encoded by a loop over pixels. Source:
github.com/zdaiot/Kaggle-Pneumothorax-Seg (2019).
"""

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision import transforms

from datasets.augmentation import A, Augmentation
from datasets.sources.base import Sample

_THRESHOLD = 0.5


class OriginalImages(Dataset):
    """Training images: `dataset[index]` -> image float32 [3,S,S] and mask float32 [1,S,S].

    Args:
        samples: the files.
        size: side of the square result in pixels.
    """

    def __init__(self, samples: list[Sample], size: int):
        self.samples = samples
        self.clahe = A.CLAHE(clip_limit=(2.0, 2.0), tile_grid_size=(8, 8), p=1.0)
        self.augmentation = Augmentation()
        self.image_transform = _to_input(size)
        self.mask_transform = transforms.Compose(
            [transforms.Resize((size, size)), transforms.ToTensor()]
        )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return an augmented image and its mask."""
        sample = self.samples[index]
        image = np.asarray(Image.open(sample.image).convert("RGB"))
        mask = np.asarray(Image.open(sample.mask).convert("L"))
        image = self.clahe(image=image)["image"]
        image, mask = self.augmentation(image, mask, seed=index)
        return (
            self.image_transform(Image.fromarray(image)),
            self.mask_transform(Image.fromarray(mask)),
        )


def _to_input(size: int) -> transforms.Compose:
    return transforms.Compose(
        [
            transforms.Resize((size, size)),
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )


@torch.no_grad()
def predict(network: nn.Module, samples: list[Sample], size: int, device: torch.device) -> int:
    """Predict and encode images one by one.

    Args:
        network: [1,3,S,S] float32 -> logits, in evaluation mode.
        samples: the files.
        size: side of the square input in pixels.
        device: device of the network.

    Returns:
        The number of images.
    """
    clahe = A.CLAHE(clip_limit=(2.0, 2.0), tile_grid_size=(8, 8), p=1.0)
    to_input = _to_input(size)
    for sample in samples:
        image = np.asarray(Image.open(sample.image).convert("RGB"))
        pixels = to_input(Image.fromarray(clahe(image=image)["image"]))[None].to(device)
        probability = torch.sigmoid(network(pixels))[0, 0].cpu().numpy().astype(np.float64)
        full = cv2.resize(probability, (image.shape[1], image.shape[0]))
        mask = full > _THRESHOLD
        encode(mask) if mask.any() else "-1"
    return len(samples)


def encode(mask: np.ndarray) -> str:
    """Encode a mask pixel by pixel like the organisers' example, but including the last run."""
    numbers, last, start, inside = [], 0, 0, False
    for position, pixel in enumerate(mask.T.ravel()):
        if bool(pixel) != inside:
            if inside:
                numbers += [start - last, position - start]
                last = position
            start, inside = position, not inside
    if inside:
        numbers += [start - last, mask.size - start]
    return " ".join(map(str, numbers)) or "-1"
