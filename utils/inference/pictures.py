"""Pictures of predictions, published only once all of them are complete."""

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from datasets.formats.images import read_image
from datasets.formats.rle import decode
from utils.drawing import contact_sheet, prediction_panels, tile
from utils.inference.staging import StagedFolders
from utils.inference.submission import InputImage, Prediction

SHEET = "contact_sheet"
SHEET_TILES = 36


class Pictures(StagedFolders):
    """Writes pictures to hidden folders; `publish` moves them to their targets.

    Args:
        overlays: folder for <id>.png (image, mask and probability) and a contact sheet, or None.
        probabilities: folder for <id>.png, the 8-bit levels floor(255 p) at the original size, or
            None.
        threshold: marked on the colour bar of the probabilities.
        suffix: makes the hidden folders unique to this command; the same in every process.
        is_owner: whether this process publishes and cleans up.
    """

    def __init__(
        self,
        overlays: Path | None,
        probabilities: Path | None,
        threshold: float,
        suffix: str,
        is_owner: bool,
    ):
        super().__init__([overlays, probabilities], suffix, is_owner)
        self._overlays, self._probabilities = self.hidden
        self.threshold = threshold

    @property
    def need_image(self) -> bool:
        """Whether `write` needs the image at its original size."""
        return self._overlays is not None

    def write(
        self, prediction: Prediction, grey: np.ndarray | None, mask: np.ndarray, levels: np.ndarray
    ) -> None:
        """Write the pictures of one image.

        Args:
            prediction: the prediction for the image.
            grey: [H,W] uint8, the image; may be None unless `need_image`.
            mask: [H,W] uint8 of 0 and 1.
            levels: [H,W] uint8, level floor(255 p).
        """
        if self._probabilities is not None:
            _save(self._probabilities / f"{prediction.id}.png", levels)
        if self._overlays is not None and grey is not None:
            caption = (prediction.id, _describe(prediction, mask.size))
            picture = prediction_panels(grey, mask, levels, self.threshold, caption)
            _save(self._overlays / f"{prediction.id}.png", picture[..., ::-1])

    def write_sheet(
        self, predictions: list[Prediction], images: Iterable[InputImage], bits: int | None
    ) -> None:
        """Draw the contact sheet, if there is a folder for overlays.

        Args:
            predictions: predictions for all images.
            images: their files.
            bits: bits that 16-bit images use.
        """
        if self._overlays is not None:
            sheet = _draw_sheet(predictions, images, bits)
            _save(self._overlays / f"{SHEET}.png", sheet[..., ::-1])


def _draw_sheet(
    predictions: list[Prediction], images: Iterable[InputImage], bits: int | None
) -> np.ndarray:
    """Draw images with a mask first, then the others, each by descending probability."""
    paths = {image.id: image.path for image in images}
    ranked = sorted(predictions, key=lambda p: (p.area == 0, -p.probability))
    tiles = []
    for prediction in ranked[:SHEET_TILES]:
        grey = read_image(paths[prediction.id], any_modality=True, bits=bits)
        caption = (prediction.id, _describe_briefly(prediction))
        tiles.append(tile(grey, decode(prediction.rle, *grey.shape), caption))
    positive = sum(p.area > 0 for p in predictions)
    title = f"{len(predictions):,} images, {positive:,} with a mask"
    order = "masks first, then by descending probability"
    count = f"{len(tiles)} shown: " if len(tiles) < len(predictions) else ""
    return contact_sheet(tiles, (title, count + order))


def _describe(prediction: Prediction, pixels: int) -> str:
    mask = f"mask {prediction.area:,} px ({prediction.area / pixels:.1%})"
    return f"{mask if prediction.area else 'no mask'}, probability {prediction.probability:.2f}"


def _describe_briefly(prediction: Prediction) -> str:
    mask = f"{prediction.area:,} px" if prediction.area else "no mask"
    return f"{mask}, p {prediction.probability:.2f}"


def _save(path: Path, pixels: np.ndarray) -> None:
    """Write [H,W] grey or [H,W,3] BGR as PNG."""
    # cv2.imwrite only returns False on failure; write_bytes raises an OSError with the reason.
    path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
