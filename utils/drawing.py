"""Pictures of X-rays with their masks."""

import cv2
import numpy as np

TRUTH = (64, 220, 96)
PREDICTION = (255, 80, 64)


def outline(image: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Draw the edge of a mask, tinting what lies inside.

    Args:
        image: [H,W,3] uint8 RGB.
        mask: [H,W] uint8 of 0 and 1.
        colour: RGB.

    Returns:
        [H,W,3] uint8 RGB, a new picture.
    """
    picture = image.copy()
    inside = mask.astype(bool)
    picture[inside] = 0.75 * picture[inside] + 0.25 * np.array(colour)
    edges, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(picture, edges, -1, colour, max(1, len(image) // 256))
    return picture


def comparison(image: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Put the image, the image with the truth, and that with the prediction side by side.

    Args:
        image: [H,W] uint8 grey.
        truth: [H,W] uint8 of 0 and 1, drawn green.
        prediction: [H,W] uint8 of 0 and 1, drawn red.

    Returns:
        [H,3W,3] uint8 RGB.
    """
    rgb = np.repeat(image[..., None], 3, axis=2)
    return np.hstack((rgb, outline(rgb, truth, TRUTH), outline(rgb, prediction, PREDICTION)))
