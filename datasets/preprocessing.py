"""Preprocessing, the same for training, validation and prediction: CLAHE, then resizing."""

import cv2
import numpy as np


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
    """Resize a [H,W] uint8 image to [size,size]: by area when shrinking, bilinear otherwise."""
    shrinks = size < max(grey.shape)
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(grey, (size, size), interpolation=interpolation)


def resize_mask(mask: np.ndarray, size: int) -> np.ndarray:
    """Resize a [H,W] uint8 mask of 0 and 1 to [size,size] by nearest neighbour."""
    return cv2.resize(mask, (size, size), interpolation=cv2.INTER_NEAREST_EXACT)


def fit_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize a [H,W] uint8 mask of 0 and 1 to [height,width]: by area, then cut at half."""
    if mask.shape == (height, width):
        return mask
    shrinks = height * width < mask.size
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    soft = cv2.resize(
        np.ascontiguousarray(mask) * np.float32(1), (width, height), None, 0, 0, method
    )
    return (soft > 0.5).astype(np.uint8)
