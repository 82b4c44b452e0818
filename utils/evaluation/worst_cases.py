"""The images behind a submission, and a sheet of those it does worst on."""

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from datasets.formats.dicom import dicom_size, read_dicom
from datasets.formats.headers import image_header
from datasets.formats.images import find_images, image_id, read_file, read_image
from utils.drawing import BACKGROUND, FAINT, PREDICTION, TEXT, TRUTH, outline
from utils.errors import InputError
from utils.evaluation.scoring import Counts, Pairs
from utils.files import atomic

COUNT = 16
PER_ROW = 4
# Pixels: a tile is two pictures side by side above a line of text.
PICTURE, LINE, GAP, TITLE = 320, 30, 8, 48
ID_TAIL = 22


def find_by_id(folder: Path, ids: Iterable[str]) -> dict[str, Path]:
    """Find the files of these images at any depth of a folder.

    Raises:
        InputError: the folder is missing, has none of them, has one twice, or an image's id cannot
            be read.
    """
    wanted, found = set(ids), {}
    for path in tqdm(find_images(folder), "finding images", unit="image", disable=None):
        name = image_id(path)
        if name in wanted and found.setdefault(name, path) != path:
            raise InputError(f"{found[name]} and {path} are both {name}; name one folder of images")
    if not found:
        raise InputError(f"{folder}: has none of the {len(wanted)} images of the submission")
    return found


def image_size(path: Path) -> tuple[int, int]:
    """Read height and width of an image, in pixels, without decoding it.

    Raises:
        InputError: the file cannot be read as an image.
    """
    if path.suffix.lower() == ".dcm":
        return dicom_size(read_dicom(path, pixels=False), path)
    return image_header(read_file(path), path)[1]


def write_sheet(
    path: Path, pairs: Pairs, counts: Counts, files: dict[str, Path], size: tuple[int, int]
) -> list[str]:
    """Draw the worst images, each as it is and with both masks, and write the sheet.

    Args:
        path: .png or .jpg to write.
        pairs: the masks.
        counts: the pixels of every image.
        files: image file of each id, as far as there is one; others are drawn on black.
        size: height and width, in pixels, of an image without a file.

    Returns:
        The ids among the worst that have no file.

    Raises:
        InputError: an image cannot be read or is not of the size of its masks.
    """
    worst, tiles = counts.worst(COUNT), []
    for i in tqdm(worst, "drawing", unit="image", disable=None):
        name = str(counts.ids[i])
        image = read_image(files[name]) if name in files else np.zeros(size, np.uint8)
        label = (
            f"{name[-ID_TAIL:].lstrip('.')}  Dice {counts.dice[i]:.3f}",
            f"true {counts.truth[i]:,}, predicted {counts.predicted[i]:,} px",
        )
        tiles.append(_tile(image, *pairs.masks(name, image.shape), label))
    encoded = cv2.imencode(path.suffix.lower(), _sheet(tiles, len(counts.ids))[..., ::-1])[1]
    with atomic(path) as temporary:
        temporary.write_bytes(encoded.tobytes())
    return [name for name in counts.ids[worst].tolist() if name not in files]


def _tile(
    image: np.ndarray, truth: np.ndarray, predicted: np.ndarray, label: tuple[str, str]
) -> np.ndarray:
    plain = np.repeat(_fit(image)[..., None], 3, axis=2)
    # Any part of a pixel counts: a mask of 55 pixels would vanish if it had to fill one.
    masks = ((_fit(255 * mask) > 0).astype(np.uint8) for mask in (truth, predicted))
    drawn = plain
    for mask, colour in zip(masks, (TRUTH, PREDICTION), strict=True):
        drawn = outline(drawn, mask, colour)
    line = _blank(LINE, 2 * PICTURE)
    _write(line, label[0], (4, 21), 0.5, TEXT)
    _write(line, label[1], (PICTURE + 4, 21), 0.5, FAINT)
    return np.vstack((np.hstack((plain, drawn)), line))


def _sheet(tiles: list[np.ndarray], images: int) -> np.ndarray:
    height, width = tiles[0].shape[:2]
    columns = min(PER_ROW, len(tiles))
    rows = -(-len(tiles) // columns)
    sheet = _blank(TITLE + rows * (height + GAP), columns * (width + GAP) + GAP)
    left = GAP + 4
    title = f"The {len(tiles)} lowest Dice of {images:,} images"
    for text, colour in ((title, TEXT), ("truth", TRUTH), ("prediction", PREDICTION)):
        left = 24 + _write(sheet, text, (left, 32), 0.7, colour)
    for i, tile in enumerate(tiles):
        top = TITLE + i // columns * (height + GAP)
        left = GAP + i % columns * (width + GAP)
        sheet[top : top + height, left : left + width] = tile
    return sheet


def _fit(grey: np.ndarray) -> np.ndarray:
    """Resize [H,W] uint8 into the middle of a [PICTURE,PICTURE] square, keeping its shape."""
    scale = PICTURE / max(grey.shape)
    height, width = (max(1, round(side * scale)) for side in grey.shape)
    square = np.zeros((PICTURE, PICTURE), np.uint8)
    top, left = (PICTURE - height) // 2, (PICTURE - width) // 2
    resized = cv2.resize(np.ascontiguousarray(grey), (width, height), interpolation=cv2.INTER_AREA)
    square[top : top + height, left : left + width] = resized
    return square


def _blank(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), BACKGROUND, np.uint8)


def _write(
    picture: np.ndarray, text: str, at: tuple[int, int], size: float, colour: tuple[int, int, int]
) -> int:
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(picture, text, at, font, size, colour, 1, cv2.LINE_AA)
    return at[0] + cv2.getTextSize(text, font, size, 1)[0][0]
