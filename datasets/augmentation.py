"""Augmentation of training images, uint8 in and uint8 out, with one seed per image.

`AUGMENTATIONS` names the sets; `python -m datasets.preview --out sheet.png` shows what they do.

- original: the published settings of the original repository.
- final: the last settings of the same repository (github.com/zdaiot/Kaggle-Pneumothorax-Seg,
  utils/data_augmentation.py), 34th place.
- winner: the settings of 1st place (github.com/sneddy/pneumothorax-segmentation,
  unet_pipeline/transforms).
- none: images stay unchanged.

Both 2019 repositories fill the area outside a rotated or distorted image by reflection. Here it is
black, like the surroundings of an X-ray, and never part of the mask.
"""

import os
import random

# Must precede the import, which otherwise looks for updates over the network.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import albumentations as A
import cv2
import numpy as np

from utils.errors import InputError

_GREY_LEVELS = 255
_OUTSIDE = {"border_mode": cv2.BORDER_CONSTANT, "fill": 0, "fill_mask": 0}


def _original() -> list[A.BasicTransform | A.BaseCompose]:
    """Flips and 90-degree rotations, gamma, brightness and contrast, blur, noise.

    With their probabilities: one of horizontal flip, vertical flip and rotation by a multiple of 90
    degrees (0.75); gamma of 80 to 120 % (0.5); brightness and contrast (0.5); one of three blurs
    (0.3); noise with a standard deviation of 3 to 7 grey levels (0.2).
    """
    return [
        # OneOf weights its members by p, and RandomRotate90's default is twice that of a flip.
        A.OneOf([A.HorizontalFlip(), A.VerticalFlip(), A.RandomRotate90(p=0.5)], p=0.75),
        A.RandomGamma(gamma_limit=(80, 120), p=0.5),
        A.RandomBrightnessContrast(p=0.5),
        A.OneOf(
            [A.MotionBlur(blur_limit=3), A.MedianBlur(blur_limit=3), A.Blur(blur_limit=3)], p=0.3
        ),
        _noise((3, 7), p=0.2),
    ]


def _final() -> list[A.BasicTransform | A.BaseCompose]:
    """Flip, small rotation, CLAHE, rarely gamma, brightness and contrast, blur, noise.

    With their probabilities: horizontal flip (0.4); rotation by up to 15 degrees (0.4); CLAHE with
    a clip limit of 1 to 4 (0.4), in addition to that of preprocessing; gamma of 80 to 120 % (0.1);
    brightness and contrast (0.1); one of three blurs (0.3), motion blur over 3 to 7 pixels; noise
    with a standard deviation of either 2.55 to 12.75 or 3 to 7 grey levels (0.2).
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
    """Flip, one grey-level change, one distortion, affine transform.

    With their probabilities: horizontal flip (0.5); one of contrast, gamma of 80 to 120 % and
    brightness (0.3); one of elastic, grid and optical distortion (0.3); shift by up to 6.25 % of
    each side, scaling to 90 to 110 % and rotation by up to 45 degrees (0.5). The optical distortion
    is as strong as in the source, where it folds about one image in 25 over itself. The source's
    elastic distortion also moves the corners of the image, by up to 3.6 pixels; ours does not.
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
                # Uniform noise as in 2019; the default of this version moves pixels a third as far.
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
    """Gaussian noise whose standard deviation is drawn from a range of grey levels."""
    return A.GaussNoise(std_range=tuple(level / _GREY_LEVELS for level in levels), p=p)


_SETS = {"original": _original, "final": _final, "winner": _winner}
AUGMENTATIONS = (*_SETS, "none")


class Augmentation:
    """A random augmentation of an image and its mask.

    Args:
        name: one of `AUGMENTATIONS` except none.
        soft: masks have values in between, which are interpolated; others keep their two values.
    """

    def __init__(self, name: str = "original", soft: bool = False):
        interpolation = cv2.INTER_LINEAR if soft else None
        self._transform = A.Compose(_SETS[name](), mask_interpolation=interpolation)

    def __call__(
        self, image: np.ndarray, mask: np.ndarray, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Augment an image and its mask with the same geometry.

        Args:
            image: [H,W] uint8.
            mask: [H,W] uint8 of 0 and 1, or soft.
            seed: determines every random choice; the same seed yields the same pixels.

        Returns:
            Augmented image and mask, shapes and dtypes unchanged.
        """
        # All transforms draw from one stream. `set_random_seed` would seed each of them equally, so
        # that gamma, contrast, blur and noise would be applied together or not at all.
        self._transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
        augmented = self._transform(image=image, mask=mask)
        return augmented["image"], augmented["mask"]


def build_augmentation(name: str, soft: bool = False) -> Augmentation | None:
    """Build one of `AUGMENTATIONS`; for "none", return None. `soft` as in `Augmentation`.

    Raises:
        InputError: the name is unknown.
    """
    if name not in AUGMENTATIONS:
        raise InputError(f"unknown --augmentation {name!r}; choose {', '.join(AUGMENTATIONS)}")
    return None if name == "none" else Augmentation(name, soft)
