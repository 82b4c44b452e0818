"""Image files read for tests, without the project's own code."""

from pathlib import Path

import cv2
import numpy as np


def read_pixels(path: str | Path, flags: int = cv2.IMREAD_UNCHANGED) -> np.ndarray:
    """Read an image file, [H,W] or [H,W,3] of OpenCV's order."""
    pixels = cv2.imread(str(path), flags)
    assert pixels is not None, f"{path} is no image"
    return pixels
