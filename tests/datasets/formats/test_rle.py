import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from datasets.formats.rle import decode, encode, extent, from_absolute, may_be_absolute

MASKS = arrays(
    np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 1)
)


def slow_encode(mask):
    """Encode by walking down the columns, pixel by pixel."""
    numbers, gap, length = [], 0, 0
    for column in range(mask.shape[1]):
        for row in range(mask.shape[0]):
            if mask[row, column]:
                length += 1
            elif length:
                numbers += [gap, length]
                gap, length = 1, 0
            else:
                gap += 1
    if length:
        numbers += [gap, length]
    return " ".join(map(str, numbers)) or "-1"


@given(MASKS)
def test_encode_equals_the_pixel_by_pixel_reference(mask):
    assert encode(mask) == slow_encode(mask)


@given(MASKS)
def test_decode_inverts_the_reference(mask):
    decoded = decode(slow_encode(mask), *mask.shape)
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, mask)


@settings(max_examples=20)
@given(st.lists(st.integers(0, 1024 * 1024 - 1), max_size=40), st.integers(1, 3000))
def test_masks_of_real_size_survive_encoding_and_decoding(starts, length):
    flat = np.zeros(1024 * 1024, dtype=np.uint8)
    for start in starts:
        flat[start : start + length] = 1
    mask = flat.reshape(1024, 1024).T
    assert np.array_equal(decode(encode(mask)), mask)


@pytest.mark.parametrize(
    ("pixels", "text"),
    [
        ([], "-1"),
        ([(0, 0)], "0 1"),
        ([(2, 3)], "11 1"),
        ([(0, 0), (2, 3)], "0 1 10 1"),
        ([(2, 0), (0, 1)], "2 2"),
        ([(1, 2), (2, 2)], "7 2"),
        ([(row, column) for row in range(3) for column in range(4)], "0 12"),
    ],
    ids=["empty", "first pixel", "last pixel", "first and last", "across columns", "down", "full"],
)
def test_pixels_run_down_the_columns(pixels, text):
    mask = np.zeros((3, 4), dtype=np.uint8)
    for pixel in pixels:
        mask[pixel] = 1
    assert encode(mask) == text
    assert np.array_equal(decode(text, 3, 4), mask)


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32])
def test_any_dtype_is_accepted_and_any_nonzero_value_is_mask(dtype):
    mask = np.array([[0, 1], [2, 0]]).astype(dtype)
    assert encode(mask) == "1 2"


def test_encode_does_not_modify_the_mask():
    mask = np.eye(5, dtype=np.uint8)
    encode(mask)
    assert np.array_equal(mask, np.eye(5))


def test_surrounding_spaces_are_ignored():
    assert np.array_equal(decode(" 1 2 ", 2, 2), decode("1 2", 2, 2))
    assert not decode(" -1 ", 2, 2).any()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "pairs"),
        ("1", "pairs"),
        ("1 2 3", "pairs"),
        ("-2 1", "negative"),
        ("1 -1", "negative"),
        ("1 0", "length 0"),
        ("8 2", "past the last"),
        ("0 10", "past the last"),
        ("0 4 3 3", "past the last"),
        ("99999999999999999999 1", "not all integers"),
        ("9223372036854775807 9223372036854775807", "past the last"),
        ("1 a", "not all integers"),
        ("1.5 2", "not all integers"),
        ("nan", "not all integers"),
    ],
)
def test_undecodable_text_is_refused_with_the_reason(text, reason):
    with pytest.raises(ValueError, match=reason):
        decode(text, 3, 3)


def test_every_real_row_survives_decoding_and_encoding(siim_data):
    with open(siim_data / "siim" / "stage_2_train.csv", newline="") as file:
        rows = [row["EncodedPixels"] for row in csv.DictReader(file)]
    assert len(rows) == 12954
    for text in rows:
        assert encode(decode(text)) == text


@given(MASKS)
def test_absolute_runs_are_the_starts_of_the_relative_ones(mask):
    """Against the encoder of Kaggle's other competitions: pixels are numbered from 1."""
    pixels = np.concatenate([[0], mask.T.flatten(), [0]])
    runs = np.where(pixels[1:] != pixels[:-1])[0] + 1
    runs[1::2] -= runs[::2]
    absolute = " ".join(map(str, runs)) or "-1"
    assert from_absolute(absolute) == encode(mask)
    assert may_be_absolute(absolute, mask.size)


@pytest.mark.parametrize("text", ["0 3", "5 2 6 1", "5 2 3 1", "1", "a b", "", "-2 1"])
def test_what_cannot_be_absolute_is_refused(text):
    with pytest.raises(ValueError, match="run"):
        from_absolute(text)
    assert not may_be_absolute(text, 100)


@pytest.mark.parametrize(
    ("text", "pixels"),
    [("0 2 3 1", 6), ("-1", 0), ("", 0), ("a 1", 0), ("1.5 1", 0), ("9" * 4300 + " 1", 0)],
)
def test_the_extent_is_the_end_of_the_last_run(text, pixels):
    assert extent(text) == pixels
