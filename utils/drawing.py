"""Pictures of X-rays with their masks."""

import functools
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

TRUTH = (64, 220, 96)
PREDICTION = (255, 80, 64)
BACKGROUND, TEXT, FAINT = (24, 24, 24), (240, 240, 240), (160, 160, 160)
PANEL = 512
"""Longer side of each panel of `prediction_panels`, in pixels."""
TILE = 224
"""Side of the square of an image in a contact sheet, in pixels."""
SHEET_COLUMNS = 6
_GAP, _LINE, _TITLE = 10, 32, 64
_CAPTION = 42
_KEY, _BAR = 64, 14


def outline(image: np.ndarray, mask: np.ndarray, colour: Colour) -> np.ndarray:
    """Draw the outline of a mask and tint its inside.

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
    """Draw the image, the image with the truth and the image with the prediction side by side.

    Args:
        image: [H,W] uint8 grey.
        truth: [H,W] uint8 of 0 and 1, drawn green.
        prediction: [H,W] uint8 of 0 and 1, drawn red.

    Returns:
        [H,3W,3] uint8 RGB.
    """
    rgb = _to_rgb(image)
    return np.hstack((rgb, outline(rgb, truth, TRUTH), outline(rgb, prediction, PREDICTION)))


def heat_overlay(image: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Overlay probability as colour: transparent at 0, then violet, red, bright yellow at 1.

    Args:
        image: [H,W,3] uint8 RGB.
        levels: [H,W] uint8, level floor(255 p).

    Returns:
        [H,W,3] uint8 RGB, a new picture.
    """
    colours = cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO)[..., ::-1]
    opacity = 0.85 * np.sqrt(levels[..., None] / np.float32(255))
    return ((1 - opacity) * image + opacity * colours).astype(np.uint8)


def prediction_panels(
    grey: np.ndarray,
    mask: np.ndarray,
    levels: np.ndarray,
    threshold: float,
    caption: tuple[str, str],
) -> np.ndarray:
    """Draw an image, its predicted mask and its probability map side by side.

    Args:
        grey: [H,W] uint8, the image.
        mask: [H,W] uint8 of 0 and 1, the prediction.
        levels: [H,W] uint8, level floor(255 p).
        threshold: pixels above it belong to the mask; marked on the colour bar.
        caption: texts at the lower left and lower right; the left one is shortened if too long.

    Returns:
        uint8 RGB; the longer side of each of the three panels is `PANEL` pixels.
    """
    plain = _to_rgb(fit(grey, PANEL))
    height, width = plain.shape[:2]
    levels = cv2.resize(levels, (width, height), interpolation=cv2.INTER_LINEAR)
    panels = {
        "image": plain,
        "predicted mask": outline(plain, fit_mask(mask, PANEL), PREDICTION),
        "probability": heat_overlay(plain, levels),
    }
    right = len(panels) * (width + _GAP) + _KEY
    canvas = Image.new("RGB", (right + _GAP, height + 2 * _LINE), BACKGROUND)
    for i, (title, panel) in enumerate(panels.items()):
        left = _GAP + i * (width + _GAP)
        canvas.paste(Image.fromarray(panel), (left, _LINE))
        _write(canvas, title, (left, _LINE // 2), "lm", FAINT)
    _draw_colour_bar(canvas, (right - _KEY + _GAP, _LINE), height, threshold)
    below = height + _LINE * 3 // 2
    space = right - 3 * _GAP - _font(15).getlength(caption[1])
    _write(canvas, _shorten(caption[0], space), (_GAP, below), "lm", TEXT)
    _write(canvas, caption[1], (right, below), "rm", TEXT)
    return np.asarray(canvas)


def tile(
    grey: np.ndarray,
    mask: np.ndarray,
    caption: tuple[str, str],
    colour: Colour = PREDICTION,
) -> np.ndarray:
    """Draw one image of a contact sheet with its mask and two lines of text below it.

    Args:
        grey: [H,W] uint8, the image.
        mask: [H,W] uint8 of 0 and 1.
        caption: the two lines; the first is shortened if it is too long.
        colour: RGB of the mask, and of the second line unless the mask is empty.

    Returns:
        uint8 RGB, `TILE` pixels wide, the same size for every image.
    """
    return _caption(_square(grey, {colour: mask}), caption, colour if mask.any() else FAINT)


def double_tile(
    grey: np.ndarray, masks: dict[Colour, np.ndarray], caption: tuple[str, str]
) -> np.ndarray:
    """Draw an image next to the same image with masks, and two lines of text below both.

    Args:
        grey: [H,W] uint8, the image.
        masks: [H,W] uint8 of 0 and 1 by RGB colour, the topmost last.
        caption: the two lines; the first is shortened if it is too long.

    Returns:
        uint8 RGB, twice `TILE` pixels wide, the same size for every image.
    """
    return _caption(np.hstack((_square(grey, {}), _square(grey, masks))), caption, FAINT)


def contact_sheet(
    tiles: Sequence[np.ndarray],
    title: tuple[str, str],
    columns: int = SHEET_COLUMNS,
    row_titles: Sequence[str] = (),
) -> np.ndarray:
    """Arrange tiles of one size in rows below a title of two lines.

    Args:
        tiles: one or more, [H,W,3] uint8 RGB.
        title: what the sheet shows; the second line is fainter.
        columns: tiles per row; the last row may have fewer.
        row_titles: a line above each row; empty for none.

    Returns:
        uint8 RGB.
    """
    height, width = tiles[0].shape[:2]
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    head = _LINE if row_titles else 0
    pitch = head + height + _GAP
    size = (columns * (width + _GAP) + _GAP, _TITLE + rows * pitch)
    canvas = Image.new("RGB", size, BACKGROUND)
    _write(canvas, title[0], (_GAP, 20), "lm", TEXT, size=17)
    _write(canvas, title[1], (_GAP, 44), "lm", FAINT, size=13)
    for row, text in enumerate(row_titles):
        _write(canvas, text, (_GAP, _TITLE + row * pitch + head // 2), "lm", TEXT)
    for i, picture in enumerate(tiles):
        row, column = divmod(i, columns)
        corner = (_GAP + column * (width + _GAP), _TITLE + row * pitch + head)
        canvas.paste(Image.fromarray(picture), corner)
    return np.asarray(canvas)


def _to_rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


def fit(grey: np.ndarray, side: int) -> np.ndarray:
    """Resize [H,W] uint8 so that its longer side has `side` pixels."""
    scale = side / max(grey.shape)
    size = tuple(max(1, round(length * scale)) for length in grey.shape[::-1])
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def fit_mask(mask: np.ndarray, side: int) -> np.ndarray:
    """Resize a mask, [H,W] uint8 of 0 and 1, so that its longer side has `side` pixels."""
    # When shrinking, any overlap with a pixel counts, or the smallest masks would vanish.
    shrinks = max(mask.shape) > side
    return (fit(255 * mask, side) > (0 if shrinks else 127)).astype(np.uint8)


def _square(grey: np.ndarray, masks: dict[Colour, np.ndarray]) -> np.ndarray:
    """Fit an image with its masks into the centre of a black square of `TILE` pixels."""
    picture = _to_rgb(fit(grey, TILE))
    for colour, mask in masks.items():
        picture = outline(picture, fit_mask(mask, TILE), colour)
    height, width = picture.shape[:2]
    square = np.zeros((TILE, TILE, 3), np.uint8)
    top, left = (TILE - height) // 2, (TILE - width) // 2
    square[top : top + height, left : left + width] = picture
    return square


def _caption(picture: np.ndarray, lines: tuple[str, str], colour: Colour) -> np.ndarray:
    """Draw two lines of text below a picture, the second in the given colour."""
    height, width = picture.shape[:2]
    canvas = Image.new("RGB", (width, height + _CAPTION), BACKGROUND)
    canvas.paste(Image.fromarray(picture), (0, 0))
    _write(canvas, _shorten(lines[0], width, size=12), (0, height + 12), "lm", TEXT, size=12)
    _write(canvas, lines[1], (0, height + 29), "lm", colour, size=12)
    return np.asarray(canvas)


def _draw_colour_bar(
    canvas: Image.Image, corner: tuple[int, int], height: int, threshold: float
) -> None:
    """Draw the colours of `heat_overlay` from 1 down to 0, with the threshold marked."""
    descending = np.linspace(255, 0, height).astype(np.uint8)[:, None].repeat(_BAR, axis=1)
    grey = np.full((height, _BAR, 3), 96, np.uint8)
    canvas.paste(Image.fromarray(heat_overlay(grey, descending)), corner)
    left, top = corner[0] + _BAR + 6, corner[1]
    for value, anchor in ((1.0, "la"), (0.0, "ls")):
        _write(canvas, f"{value:.0f}", (left, round(top + (1 - value) * height)), anchor, FAINT, 12)
    mark = round(top + (1 - threshold) * (height - 1))
    line = (corner[0] - 3, mark, corner[0] + _BAR + 3, mark)
    ImageDraw.Draw(canvas).line(line, PREDICTION, 2)
    if min(threshold, 1 - threshold) * height > 20:
        _write(canvas, f"{threshold:.2f}", (left, mark), "lm", PREDICTION, 12)


def _write(
    canvas: Image.Image,
    text: str,
    at: tuple[int, int],
    anchor: str,
    colour: Colour,
    size: int = 15,
) -> None:
    ImageDraw.Draw(canvas).text(at, text, colour, _font(size), anchor)


def _shorten(text: str, width: float, size: int = 15) -> str:
    """Cut off the start of a text that is wider than `width` pixels: ids differ at their end."""
    font = _font(size)
    for start in range(len(text)):
        part = f"…{text[start:]}" if start else text
        if font.getlength(part) <= width:
            return part
    return ""


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    # Of the fonts at hand, matplotlib's knows most scripts; prediction without torch does not bring
    # it, and Pillow's own knows the Latin one.
    found = importlib.util.find_spec("matplotlib")
    if found is None or found.origin is None:
        return ImageFont.load_default(size)
    folder = Path(found.origin).with_name("mpl-data")
    return ImageFont.truetype(str(folder / "fonts/ttf/DejaVuSans.ttf"), size)
