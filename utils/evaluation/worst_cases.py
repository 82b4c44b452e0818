"""A contact sheet of the images with the lowest Dice."""

from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from datasets.formats.depth import common_bits
from datasets.formats.images import read_image
from utils.drawing import PREDICTION, TRUTH, contact_sheet, double_tile
from utils.evaluation.scoring import MaskPairs, PixelCounts
from utils.files import write_output

COUNT = 16
_PER_ROW = 4


def write_worst_sheet(
    path: Path, pairs: MaskPairs, counts: PixelCounts, files: dict[str, Path], size: tuple[int, int]
) -> list[str]:
    """Draw the images with the lowest Dice, each without and with its two masks.

    Args:
        path: the .png or .jpg file to write.
        pairs: the masks.
        counts: the pixel counts of every image.
        files: image files by id; an image without a file is drawn black.
        size: height and width, in pixels, of images without a file.

    Returns:
        The ids on the sheet that have no file.

    Raises:
        InputError: an image cannot be read or does not have the size of its masks.
    """
    worst, tiles = counts.worst(COUNT), []
    shown = [files[name] for name in counts.ids[worst].tolist() if name in files]
    # One depth for the whole sheet; which one matters only to the eye.
    bits = common_bits(shown)
    for i in tqdm(worst, "drawing", unit="image", disable=None):
        name = str(counts.ids[i])
        image = (
            read_image(files[name], any_modality=True, bits=bits)
            if name in files
            else np.zeros(size, np.uint8)
        )
        truth, predicted, _ = pairs.masks(name, (image.shape[0], image.shape[1]))
        caption = (
            name,
            f"Dice {counts.dice[i]:.3f}: truth {counts.truth[i]:,} px, prediction "
            f"{counts.predicted[i]:,} px",
        )
        tiles.append(double_tile(image, {TRUTH: truth, PREDICTION: predicted}, caption))
    title = f"The {len(tiles)} lowest Dice of {len(counts.ids):,} images"
    sheet = contact_sheet(tiles, (title, "truth green, prediction red"), _PER_ROW)
    encoded = cv2.imencode(path.suffix.lower(), sheet[..., ::-1])[1]
    with write_output(path) as temporary:
        temporary.write_bytes(encoded.tobytes())
    return [name for name in counts.ids[worst].tolist() if name not in files]
