"""16-bit images, compared with shifting the array that each file was made from."""

import cv2
import numpy as np
import pytest

from datasets.formats.depth import DEPTHS, Depth, bits_file, choose_depth, largest_value, read_bits
from datasets.formats.images import identify, read_image
from tests.helpers.dicoms import picture, write_dicom, write_jpeg_dicom
from utils.errors import InputError


def values_of(bits, largest=None, shape=(20, 30)):
    """Generate [H,W] uint16 values of which the largest is `largest`, by default all bits set."""
    largest = 2**bits - 1 if largest is None else largest
    values = np.random.default_rng(bits).integers(0, largest + 1, shape).astype(np.uint16)
    values[3, 5] = largest
    return values


def write_png(path, values):
    cv2.imwrite(str(path), values)
    return path


@pytest.mark.parametrize("bits", DEPTHS)
def test_a_16_bit_png_keeps_the_upper_8_of_its_bits(tmp_path, bits):
    values = values_of(bits)
    grey = read_image(write_png(tmp_path / "a.png", values), bits=bits)
    assert grey.dtype == np.uint8
    assert np.array_equal(grey, values >> (bits - 8))
    assert grey.max() == 255


def test_bits_change_nothing_in_an_8_bit_image(tmp_path):
    path, dicom = write_png(tmp_path / "a.png", picture()), tmp_path / "a.dcm"
    write_dicom(dicom, picture())
    for bits in (*DEPTHS, None):
        assert np.array_equal(read_image(path, bits=bits), picture())
        assert np.array_equal(read_image(dicom, bits=bits), picture())


@pytest.mark.parametrize("write", [write_png, lambda path, v: write_dicom(path, v, bits=16)])
def test_values_above_the_depth_and_an_unknown_depth_are_refused_by_name(tmp_path, write):
    path = tmp_path / ("a.png" if write is write_png else "a.dcm")
    write(path, values_of(12, largest=1024))
    with pytest.raises(InputError, match=rf"{path.name}: has the value 1,024, which 10 bits"):
        read_image(path, bits=10)
    with pytest.raises(InputError, match=rf"{path.name}: has 16-bit pixels, .*datasets\.prepare"):
        read_image(path, bits=None)


@pytest.mark.parametrize("bits", DEPTHS)
@pytest.mark.parametrize("kind", ["MONOCHROME1", "MONOCHROME2"])
def test_the_depth_replaces_bits_stored_of_16(tmp_path, bits, kind):
    values, tags = values_of(bits), {"PhotometricInterpretation": kind}
    grey = read_image(write_dicom(tmp_path / "a.dcm", values, bits=16, **tags), bits=bits)
    expected = values / (2**bits - 1) * 255
    assert np.array_equal(grey, np.rint(expected if kind == "MONOCHROME2" else 255 - expected))
    # The same as a header that tells the truth.
    told = read_image(write_dicom(tmp_path / "b.dcm", values, bits=bits, **tags), bits=bits)
    assert np.array_equal(grey, told)


WINDOW = {"WindowCenter": 300, "WindowWidth": 600}


@pytest.mark.parametrize(
    ("dtype", "stored", "tags"),
    [(np.uint16, 16, WINDOW), (np.int16, 16, {}), (np.uint16, 12, {})],
    ids=["window", "signed", "12 bits stored"],
)
def test_a_dicom_that_says_its_range_is_read_as_before(tmp_path, dtype, stored, tags):
    path = write_dicom(tmp_path / "a.dcm", values_of(10).astype(dtype), bits=stored, **tags)
    assert not identify(path).deep
    assert all(np.array_equal(read_image(path), read_image(path, bits=b)) for b in (8, 10, None))


def test_the_header_tells_which_images_have_an_unknown_depth(tmp_path):
    values = values_of(12)
    for name, pixels in (
        ("grey", values),
        ("colour", np.dstack([values] * 3)),
        ("alpha", np.dstack([values] * 4)),
    ):
        assert identify(write_png(tmp_path / f"{name}.png", pixels)).deep, name
    assert identify(write_dicom(tmp_path / "a.dcm", values, bits=16)).deep
    for path in (
        write_png(tmp_path / "8.png", picture()),
        write_png(tmp_path / "8.jpg", picture()),
        write_png(tmp_path / "8colour.png", np.dstack([picture()] * 3)),
        write_jpeg_dicom(tmp_path / "jpeg.dcm", picture(), BitsStored=16),
        write_dicom(tmp_path / "8.dcm", picture()),
    ):
        assert not identify(path).deep, path


@pytest.mark.parametrize(
    ("largest", "bits"),
    [(0, 8), (255, 8), (256, 10), (1023, 10), (1024, 12), (4095, 12), (4096, 16), (65535, 16)],
)
def test_the_fewest_bits_that_hold_the_largest_value_of_all_are_chosen(largest, bits):
    assert choose_depth([0, None, largest, largest // 2]) == Depth(bits, 3, largest)
    assert choose_depth([largest], 16) == Depth(16, 1, largest)
    assert choose_depth([None]) is None


def test_the_largest_value_is_that_of_the_pixels_without_transparency(tmp_path):
    values = values_of(12, largest=3000)
    opaque = np.full_like(values, 65535)
    path = write_png(tmp_path / "a.png", np.dstack([values, values, values, opaque]))
    assert largest_value(path) == 3000
    assert largest_value(write_dicom(tmp_path / "a.dcm", values, bits=16)) == 3000
    ct = write_dicom(tmp_path / "ct.dcm", values, bits=16, Modality="CT")
    assert largest_value(ct) is None
    assert largest_value(ct, any_modality=True) == 3000
    path.write_bytes(path.read_bytes()[:-20])
    assert largest_value(path) is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"bits": 11}', '{"bits": true}', "[" * 5000]
)
def test_a_damaged_record_is_refused_by_name(tmp_path, text):
    path = bits_file(tmp_path)
    assert read_bits(path) is None
    path.write_text(text)
    with pytest.raises(InputError, match=r"train_bits\.json"):
        read_bits(path)
