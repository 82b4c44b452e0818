"""Augmentation of training images: uint8 in, uint8 out, random by a seed per image.

`AUGMENTATIONS` names the sets; `python -m datasets.preview --out sheet.png` shows what they do.

- original: of the original repository's published settings.
- final: the last one of the same repository (github.com/zdaiot/Kaggle-Pneumothorax-Seg,
  utils/data_augmentation.py), 34th place.
- winner: of 1st place (github.com/sneddy/pneumothorax-segmentation, unet_pipeline/transforms).
- none: images stay unchanged.

Both 2019 repositories mirrored the image where a rotation or distortion reached beyond its edge.
Here the outside is black, as the surroundings of an X-ray are, and belongs to no mask.
"""

import os
import random

# Before the import: the library would otherwise look for a newer version over the network.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import albumentations as A
import cv2
import numpy as np

from utils.errors import InputError

_GREY_LEVELS = 255
_OUTSIDE = {"border_mode": cv2.BORDER_CONSTANT, "fill": 0, "fill_mask": 0}


def _original() -> list[A.BasicTransform | A.BaseCompose]:
    """Flips and turns, gamma, brightness and contrast, blur, noise.

    One of horizontal flip, vertical flip and 90-degree turn (0.75); gamma of 80 to 120 % (0.5);
    brightness and contrast (0.5); one of three blurs (0.3); noise of 3 to 7 grey levels (0.2).
    """
    return [
        # OneOf weighs its members by their p, and a turn's would be twice a flip's.
        A.OneOf([A.HorizontalFlip(), A.VerticalFlip(), A.RandomRotate90(p=0.5)], p=0.75),
        A.RandomGamma(gamma_limit=(80, 120), p=0.5),
        A.RandomBrightnessContrast(p=0.5),
        A.OneOf(
            [A.MotionBlur(blur_limit=3), A.MedianBlur(blur_limit=3), A.Blur(blur_limit=3)], p=0.3
        ),
        _noise((3, 7), p=0.2),
    ]


def _final() -> list[A.BasicTransform | A.BaseCompose]:
    """Flip, small rotation, CLAHE, a little of gamma, brightness and contrast, blur, noise.

    Horizontal flip (0.4); rotation by up to 15 degrees (0.4); CLAHE with a clip limit of 1 to 4
    (0.4), on top of preprocessing's where that has one; gamma of 80 to 120 % (0.1); brightness and
    contrast (0.1); one of three blurs (0.3), motion blur over 3 to 7 pixels; noise (0.2), one of
    2.55 to 12.75 or of 3 to 7 grey levels.
    """
    return [
        A.HorizontalFlip(p=0.4),
        A.Rotate(limit=15, **_OUTSIDE, p=0.4),
        A.CLAHE(clip_limit=(1, 4), tile_grid_size=(8, 8), p=0.4),
        A.RandomGamma(gamma_limit=(80, 120), p=0.1),
        A.RandomBrightnessContrast(p=0.1),
        A.OneOf(
            [A.MotionBlur(blur_limit=(3, 7)), A.MedianBlur(blur_limit=3), A.Blur(blur_limit=3)],
            p=0.3,
        ),
        A.OneOf([_noise((2.55, 12.75)), _noise((3, 7))], p=0.2),
    ]


def _winner() -> list[A.BasicTransform | A.BaseCompose]:
    """Flip, contrast or gamma or brightness, one distortion, shift with scale and rotation.

    Horizontal flip (0.5); one of contrast, gamma of 80 to 120 % and brightness (0.3); one of an
    elastic, a grid and an optical distortion (0.3); shift by up to 6.25 % of each side, scale of 90
    to 110 % and rotation by up to 45 degrees (0.5). The optical distortion is as strong as in the
    source: in about one image of 25 it folds the picture over. The source's elastic distortion also
    moved the image's corners by up to 3.6 pixels, which albumentations no longer does.
    """
    return [
        A.HorizontalFlip(p=0.5),
        A.OneOf(
            [
                A.RandomBrightnessContrast(brightness_limit=0, contrast_limit=0.2),
                A.RandomGamma(gamma_limit=(80, 120)),
                A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0),
            ],
            p=0.3,
        ),
        A.OneOf(
            [
                # Uniform noise as in 2019; today's default would move pixels a third as far.
                A.ElasticTransform(120, 6, noise_distribution="uniform", **_OUTSIDE),
                A.GridDistortion(num_steps=5, distort_limit=0.3, normalized=False, **_OUTSIDE),
                A.OpticalDistortion(distort_limit=2, **_OUTSIDE),
            ],
            p=0.3,
        ),
        A.Affine(
            translate_percent=(-0.0625, 0.0625),
            scale=(0.9, 1.1),
            keep_ratio=True,
            rotate=(-45, 45),
            **_OUTSIDE,
            p=0.5,
        ),
    ]


def _noise(levels: tuple[float, float], p: float = 0.5) -> A.GaussNoise:
    """Gaussian noise whose deviation is drawn from a range of grey levels."""
    return A.GaussNoise(std_range=tuple(level / _GREY_LEVELS for level in levels), p=p)


_SETS = {"original": _original, "final": _final, "winner": _winner}
AUGMENTATIONS = (*_SETS, "none")


class Augmentation:
    """A set of random changes to an image and its mask.

    Args:
        name: one of `AUGMENTATIONS`, but for none.
    """

    def __init__(self, name: str = "original"):
        self._transform = A.Compose(_SETS[name]())

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


def build_augmentation(name: str) -> Augmentation | None:
    """Build one of `AUGMENTATIONS`; none is None.

    Raises:
        InputError: there is no such set.
    """
    if name not in AUGMENTATIONS:
        raise InputError(f"unknown --augmentation {name!r}; choose {', '.join(AUGMENTATIONS)}")
    return None if name == "none" else Augmentation(name)
