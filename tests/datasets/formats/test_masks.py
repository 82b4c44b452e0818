"""Two stored values of any kind are a mask; anything else is refused with its cause."""

import cv2
import numpy as np
import pytest
from PIL import Image

from datasets.formats.masks import MaskError, read_mask
from tests.helpers.dicoms import picture
from utils.errors import InputError

SHAPE = picture() > 150
BLACK, WHITE = (0, 0, 0), (255, 255, 255)


def colours(dark, bright):
    """Return the shape, [H,W] or [H,W,C], as pixels of two values."""
    return np.where(SHAPE if np.isscalar(dark) else SHAPE[..., None], bright, dark)


def palette(dark, bright, shape=SHAPE):
    image = Image.fromarray(shape.astype(np.uint8), "P")
    image.putpalette([*dark, *bright])
    return image


@pytest.mark.parametrize(
    ("dtype", "dark", "bright"),
    [(np.uint8, *pair) for pair in ((0, 255), (0, 1), (0, 7), (3, 4), (254, 255))]
    + [(np.uint16, *pair) for pair in ((0, 255), (0, 1), (0, 65535), (255, 256), (7, 65535))],
)
def test_two_grey_levels_are_a_mask(tmp_path, dtype, dark, bright):
    cv2.imwrite(str(tmp_path / "mask.png"), colours(dark, bright).astype(dtype))
    mask = read_mask(tmp_path / "mask.png")
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, SHAPE)


@pytest.mark.parametrize(
    ("dark", "bright"),
    [
        (BLACK, WHITE),
        (BLACK, (255, 0, 0)),
        (BLACK, (0, 0, 255)),
        ((10, 10, 10), (12, 10, 10)),
        ((0, 0, 255), (0, 255, 0)),
        ((200, 0, 0), WHITE),
    ],
)
def test_two_colours_are_a_mask_of_the_brighter_one(tmp_path, dark, bright):
    pixels = colours(dark, bright).astype(np.uint8)
    inverted = colours(bright, dark).astype(np.uint8)
    opaque = np.dstack([pixels, np.full(SHAPE.shape, 255, np.uint8)])
    for image in (
        Image.fromarray(pixels),
        Image.fromarray(opaque),
        palette(dark, bright),
        palette(bright, dark, ~SHAPE),
    ):
        image.save(tmp_path / "mask.png")
        assert np.array_equal(read_mask(tmp_path / "mask.png"), SHAPE), image.mode
    for image in (Image.fromarray(inverted), palette(bright, dark)):
        image.save(tmp_path / "mask.png")
        assert np.array_equal(read_mask(tmp_path / "mask.png"), ~SHAPE), image.mode


def test_the_darker_value_is_background_even_where_shapes_are_black_on_white(tmp_path):
    """Nothing in a file says that it is inverted."""
    for dark, bright in ((0, 255), (0, 1), (20, 30)):
        cv2.imwrite(str(tmp_path / "mask.png"), colours(bright, dark).astype(np.uint8))
        assert np.array_equal(read_mask(tmp_path / "mask.png"), ~SHAPE)


def test_a_mask_of_one_bit_is_read(tmp_path):
    Image.fromarray(SHAPE).save(tmp_path / "mask.png")
    assert np.array_equal(read_mask(tmp_path / "mask.png"), SHAPE)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB", "RGBA", "LA", "I;16"])
def test_a_black_file_is_an_empty_mask(tmp_path, mode):
    Image.new(mode, (64, 48)).save(tmp_path / "mask.png")
    mask = read_mask(tmp_path / "mask.png")
    assert mask.shape == (48, 64)
    assert mask.dtype == np.uint8
    assert not mask.any()


def refusal(path):
    with pytest.raises(MaskError, match=rf"^{path}: is no mask; ") as caught:
        read_mask(path)
    assert isinstance(caught.value, InputError)
    return str(caught.value)


def test_a_third_value_is_refused(tmp_path):
    grey, colour = colours(0, 255).astype(np.uint8), colours(BLACK, WHITE).astype(np.uint8)
    deep = colours(0, 65535).astype(np.uint16)
    grey[0, 0], deep[0, 0], colour[0, 0] = 254, 65534, (255, 255, 254)
    for pixels, kind in ((grey, "grey levels"), (deep, "grey levels"), (colour, "colours")):
        cv2.imwrite(str(tmp_path / "mask.png"), pixels)
        assert f"it has 3 {kind} where a mask has two" in refusal(tmp_path / "mask.png")


def test_a_smoothed_mask_is_refused_and_its_message_says_what_to_do(tmp_path):
    white = colours(0, 255).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "saved.jpg"), white)
    cv2.imwrite(str(tmp_path / "resized.png"), cv2.resize(white, (100, 100)))
    cv2.imwrite(str(tmp_path / "blurred.png"), cv2.GaussianBlur(white, (3, 3), 0))
    for name in ("saved.jpg", "resized.png", "blurred.png"):
        message = refusal(tmp_path / name)
        assert "smoothed when it was resized, or saved as JPEG" in message
        assert "--masks DIR --binarize" in message


@pytest.mark.parametrize(
    "pixels",
    [
        np.full(SHAPE.shape, 255, np.uint8),
        np.full(SHAPE.shape, 1, np.uint8),
        np.full(SHAPE.shape, 255, np.uint16),
        np.full((*SHAPE.shape, 3), 9, np.uint8),
    ],
)
def test_a_file_of_one_value_that_is_not_black_is_refused(tmp_path, pixels):
    cv2.imwrite(str(tmp_path / "mask.png"), pixels)
    assert "one value that is not black" in refusal(tmp_path / "mask.png")


def test_a_palette_without_contrast_is_refused(tmp_path):
    palette((9, 9, 9), (9, 9, 9)).save(tmp_path / "mask.png")
    assert "one value that is not black" in refusal(tmp_path / "mask.png")
    palette((0, 0, 0), (0, 0, 0)).save(tmp_path / "black.png")
    assert "only in the numbers of a palette" in refusal(tmp_path / "black.png")


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_a_shape_that_is_only_transparency_is_refused(tmp_path, mode):
    image = Image.new("L", SHAPE.shape[::-1]).convert(mode)
    image.putalpha(Image.fromarray(SHAPE.astype(np.uint8) * 255))
    image.save(tmp_path / "mask.png")
    assert "only in its transparency" in refusal(tmp_path / "mask.png")


def test_colours_of_equal_brightness_are_refused(tmp_path):
    dark, bright = (100, 0, 0), (0, 51, 0)  # 0.299 * 100 = 29.9, 0.587 * 51 = 29.9
    images = (Image.fromarray(colours(dark, bright).astype(np.uint8)), palette(dark, bright))
    for image in images:
        image.save(tmp_path / "mask.png")
        assert "only in colours of equal brightness" in refusal(tmp_path / "mask.png")
