"""Augmentation of training images: uint8 in, uint8 out, random by a seed per image."""

import os
import random

# Before the import: the library would otherwise look for a newer version over the network.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import albumentations as A
import numpy as np

_GREY_LEVELS = 255


class Augmentation:
    """The augmentation of the original repository.

    One of horizontal flip, vertical flip and 90-degree turn (0.75); gamma of 80 to 120 % (0.5);
    brightness and contrast (0.5); one of three blurs (0.3); noise of 3 to 7 grey levels (0.2).
    """

    def __init__(self):
        self._transform = A.Compose(
            [
                # OneOf weighs its members by their p, and a turn's would be twice a flip's.
                A.OneOf([A.HorizontalFlip(), A.VerticalFlip(), A.RandomRotate90(p=0.5)], p=0.75),
                A.RandomGamma(gamma_limit=(80, 120), p=0.5),
                A.RandomBrightnessContrast(p=0.5),
                A.OneOf(
                    [A.MotionBlur(blur_limit=3), A.MedianBlur(blur_limit=3), A.Blur(blur_limit=3)],
                    p=0.3,
                ),
                A.GaussNoise(std_range=(3 / _GREY_LEVELS, 7 / _GREY_LEVELS), p=0.2),
            ]
        )

    def __call__(
        self, image: np.ndarray, mask: np.ndarray, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Change an image and its mask together.

        Args:
            image: [H,W] uint8.
            mask: [H,W] uint8 of 0 and 1.
            seed: decides every random choice; the same seed gives the same pixels.

        Returns:
            Image and mask of the same shapes and types.
        """
        # One stream for all transforms: `set_random_seed` would give each its own copy of the same
        # stream, so that gamma, contrast, blur and noise would come and go together.
        self._transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
        changed = self._transform(image=image, mask=mask)
        return changed["image"], changed["mask"]
