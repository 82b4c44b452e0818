"""Preprocessing, the same for training, validation and prediction: CLAHE, then resizing.

Masks are only resized for the network to learn from; scores are at the images' original sizes.
"""

import cv2
import numpy as np

_WHOLE = 255


def preprocess(grey: np.ndarray, size: int, clahe: bool) -> np.ndarray:
    """Prepare an image for the network.

    Args:
        grey: [H,W] uint8.
        size: height and width of the result in pixels.
        clahe: apply CLAHE, at the original size.

    Returns:
        [size,size] uint8.
    """
    return resize_image(equalise(grey) if clahe else grey, size)


def equalise(grey: np.ndarray) -> np.ndarray:
    """Apply CLAHE (clip limit 2.0, 8x8 tiles), uint8 [H,W] -> [H,W]."""
    return cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8)).apply(grey)


def resize_image(grey: np.ndarray, size: int) -> np.ndarray:
    """Resize a [H,W] uint8 image to [size,size]: each side by area if it shrinks, or bilinear."""
    return _resize(grey, size, size)


def whole_pixel(method: str) -> int:
    """Return the value of a pixel that lies wholly in a mask of `resize_mask`: 1, for soft 255."""
    return _WHOLE if method == "soft" else 1


def resize_mask(mask: np.ndarray, size: int, method: str = "nearest") -> np.ndarray:
    """Resize a mask to the square that a network sees.

    Nearest takes the value at the middle of every pixel, rounded to a pixel of the original, which
    moves the mask by half of one and may lose one of few pixels. Area and soft measure how much of
    every pixel the mask covers, and leave no mask empty: a tiny one keeps the pixels that it covers
    most.

    Args:
        mask: [H,W] uint8 of 0 and 1.
        size: height and width of the result in pixels.
        method: nearest; area, the pixels that are covered by more than half; soft, the share.

    Returns:
        [size,size] uint8 from 0 to `whole_pixel(method)`.
    """
    if method == "nearest":
        return cv2.resize(mask, (size, size), interpolation=cv2.INTER_NEAREST_EXACT)
    if method == "soft":
        resized = resize_soft_mask(mask * np.uint8(_WHOLE), size)
    else:
        resized = fit_mask(mask, size, size)
    if not resized.any() and mask.any():
        share = _covered(mask, size, size)
        resized[share == share.max()] = 1
    return resized


def resize_soft_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """Resize a soft mask, [H,W] uint8 from 0 to 255, to [size,size], as images are resized."""
    return mask if mask.shape == (size, size) else resize_image(mask, size)


def fit_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize a [H,W] uint8 mask of 0 and 1 to [height,width]: by area, then cut at half."""
    if mask.shape == (height, width):
        return mask
    return (_covered(mask, height, width) > 0.5).astype(np.uint8)


def _covered(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the share of every pixel that a mask of 0 and 1 covers, [height,width] float32."""
    return _resize(np.ascontiguousarray(mask) * np.float32(1), height, width)


def _resize(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize [H,W] to [height,width]: each side by area if it shrinks, bilinear if it grows."""
    # Separately, because OpenCV interpolates both sides as soon as one grows.
    smaller = (min(width, values.shape[1]), min(height, values.shape[0]))
    shrunk = cv2.resize(values, smaller, interpolation=cv2.INTER_AREA)
    return cv2.resize(shrunk, (width, height), interpolation=cv2.INTER_LINEAR)
